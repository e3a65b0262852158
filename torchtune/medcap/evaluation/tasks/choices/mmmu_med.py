"""MMMU-Med: the five subjects of health and medicine of MMMU's validation part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medcap.datasets.published.choices import mmmu
from medcap.datasets.published.reading import Strict
from medcap.evaluation.prompting import ScoringPlan
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task
from medcap.evaluation.tasks.choices.rows import PROTOCOLS, choice_row
from medcap.evaluation.tasks.official import find_benchmark, published_benchmark
from medcap.evaluation.tasks.row_images import RowImages
from medcap.scoring.protocols.exact import Exact
from medcap.scoring.protocols.multiple_choice import MultipleChoice

PUBLISHED = {"rows": 150}  # 30 of each subject; Yue et al., 2024, arXiv:2311.16502


class MmmuMedTask(Task):
    """``<Subject>/validation-*.parquet`` of five subjects; ``question_type`` is the subject.

    ``exact`` scores the open questions, and rules for options score those that have some. A file of the test part can
    be named, but its answers are withheld, and a question without an answer is a failure.
    """

    name = "mmmu_med"
    title = "MMMU-Med"
    protocols = (*PROTOCOLS, "vlmevalkit", "exact")

    def plan(
        self, vqa_type: str, protocols: Sequence[str] | None = None, options: LoadOptions = DEFAULTS
    ) -> list[ScoringPlan]:
        """Plan as other tasks do, each rule for its own kind of questions; any further rule scores all of them."""
        return [replace(plan, tasks=_kinds(plan)) for plan in super().plan(vqa_type, protocols, options)]

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the questions of all subjects; see :meth:`Task.load`."""
        first = find_benchmark(
            source,
            self.title,
            mmmu.LAYOUT,
            "MMMU/Basic_Medical_Science/validation-*.parquet, and likewise Clinical_Medicine,"
            " Diagnostics_and_Laboratory_Medicine, Pharmacy and Public_Health (MMMU/MMMU on the hub)",
        )
        found, missing = mmmu.all_subjects(first)
        images_of = RowImages(found, mmmu.LAYOUT, options, embedded=True)
        rows = [choice_row(it, images_of) for it in mmmu.questions(found, Strict(self.title))]
        return published_benchmark(
            found,
            rows,
            roots=images_of.roots,
            expected=None if found.named else PUBLISHED,
            notices=[f"subjects without a file in {found.folder}: {', '.join(missing)}"] if missing else [],
        )


def _kinds(plan: ScoringPlan) -> tuple[str, ...]:
    """Return the kinds of questions that a plan scores; empty for all."""
    if isinstance(plan.protocol, MultipleChoice):
        return (mmmu.CHOICE,)
    return (mmmu.OPEN,) if plan.protocol.name == Exact.name else ()
