"""The answers of a training set, from which the controls ``prior_box`` and ``prior_mask`` are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.checkpoints.run import CONFIG_FILE, run_root
from medcap.data.images.reader import ImageReader
from medcap.data.row_layouts import Record, read_record
from medcap.datasets.rows.source import open_source
from medcap.errors import UserError


@dataclass(frozen=True)
class TrainingAnswers:
    """Where training answers are.

    Attributes:
        sources: what ``dataset.source`` named, each with its ``conversation_style``.
        image_roots: folders of the images, whose sizes boxes in pixels need, and of the masks; None for those beside
            the file.
    """

    sources: tuple[tuple[str, str], ...]
    image_roots: Sequence[str] | None = None

    @property
    def names(self) -> list[str]:
        """The sources."""
        return [source for source, _ in self.sources]

    def read(self, use: Callable[[Any, Record, ImageReader], None]) -> list[str]:
        """Read every row.

        Args:
            use: takes a row, what was read of it, and what finds its images; it may raise a ``UserError``.

        Returns:
            Why rows cannot be read, a line for each of them.

        Raises:
            UserError: if a source cannot be opened.
        """
        bad = []
        for source, style in self.sources:
            rows, reader = open_source(source, self.image_roots)
            for index in range(len(rows)):
                try:
                    row = rows.read(index)
                    use(row, read_record(row, rows.path, index, reader.resolve, style), reader)
                except UserError as error:
                    bad.append(str(error))
        return bad


def find_training_answers(
    source: str | None, style: str, image_roots: Sequence[str] | None, run: str | None
) -> TrainingAnswers | None:
    """Find the training answers.

    Args:
        source: value of the key ``prior_source``; None takes what the run was trained on.
        style: value of ``dataset_conversation_style``, for ``source``.
        image_roots: value of ``image_roots``, for ``source``.
        run: the run or one of its checkpoints; None where there is none.

    Returns:
        Where they are; None if that is not known.
    """
    if source is not None:
        folder = str(Path(source).parent)
        return TrainingAnswers(((source, style),), None if image_roots is None else [folder, ".", *image_roots])
    config = None if run is None or not Path(run).exists() else run_root(run) / CONFIG_FILE
    if config is None or not config.is_file():
        return None
    from omegaconf import OmegaConf

    loaded: Any = OmegaConf.to_container(OmegaConf.load(config), resolve=False)
    dataset = loaded.get("dataset") if isinstance(loaded, Mapping) else None
    if not isinstance(dataset, Mapping):
        return None
    entries = [dataset, *(dataset.get("sources") or [])]
    default = dataset.get("conversation_style") or "auto"
    found = tuple(
        (str(entry["source"]), str(entry.get("conversation_style") or default))
        for entry in entries
        if isinstance(entry, Mapping) and entry.get("source")
    )
    return TrainingAnswers(found, dataset.get("image_roots")) if found else None


def nothing_found(training: TrainingAnswers, kind: str, bad: Sequence[str]) -> UserError:
    """Return the error of training answers without one box or mask; see :meth:`TrainingAnswers.read` for ``bad``."""
    reason = f"; the first bad row: {bad[0]}" if bad else ""
    return UserError(f"prior_source: no answer of {', '.join(training.names)} holds a {kind}{reason}")


def unread_rows(control: str, bad: Sequence[str]) -> list[str]:
    """Say how many training rows a control could not read; at most one line."""
    return [f"{control}: {len(bad):,} training rows cannot be read; the first: {bad[0]}"] if bad else []
