"""The options of a task's run, and its scored answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

from torchtune.data import Message

from medcap.evaluation.answering import Entry
from medcap.evaluation.prompting import ScoringPlan
from medcap.evaluation.training_answers import TrainingAnswers
from medcap.scoring.protocols.base import ProtocolScores


def fifty_each(messages: list[Message]) -> Iterable[int]:
    """Return medcap 2024's number of tokens for each image."""
    return repeat(50)


@dataclass(frozen=True)
class RunOptions:
    """The options of a run other than its task.

    Attributes:
        output_dir: folder of the run.
        settings: everything that decides an answer besides the request (checkpoint fingerprint, sampling, prompt
            format): rows made under other settings are never mixed in.
        name: the checkpoint's, for medcap 2024's file names; the task's name if empty.
        folder: name of the task's folder; the task's name if empty.
        controls: names of ``ALL_CONTROLS`` to run as well.
        seed: seed of the controls.
        overwrite: answer every row again.
        keep_old: use answers that were made under other settings, and say so.
        image_lengths: turns -> placeholder characters that medcap 2024's raw tables show for each of their images; by
            default as many as that system's.
        prior: the training answers of the controls ``prior_box`` and ``prior_mask``; None where they are not known.
        results_csv: the table that gets a row of this run; ``<output_dir>/results.csv`` if None.
    """

    output_dir: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    folder: str = ""
    controls: Sequence[str] = ()
    seed: int = 0
    overwrite: bool = False
    keep_old: bool = False
    image_lengths: Callable[[list[Message]], Iterable[int]] = fifty_each
    prior: TrainingAnswers | None = None
    results_csv: Path | None = None


@dataclass(frozen=True)
class Scored:
    """One plan's answers and their scores."""

    plan: ScoringPlan
    entries: list[Entry]
    scores: ProtocolScores
