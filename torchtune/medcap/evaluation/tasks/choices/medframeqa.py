"""MedFrameQA: options about two to five frames of a video."""

from __future__ import annotations

from pathlib import Path

from medcap.datasets.published.choices import medframeqa
from medcap.datasets.published.reading import Strict
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task
from medcap.evaluation.tasks.choices.rows import PROTOCOLS, choice_row
from medcap.evaluation.tasks.official import find_benchmark, published_benchmark
from medcap.evaluation.tasks.row_images import RowImages

PUBLISHED = {"rows": 2_851}  # Yu et al., 2025, arXiv:2505.16964


class MedFrameQaTask(Task):
    """The hub's parquet files; the frames stand before the words, in their order.

    ``question_type`` is the body system, ``patient`` the video: intervals draw the questions of a video together.
    """

    name = "medframeqa"
    title = "MedFrameQA"
    protocols = (*PROTOCOLS, "medevalkit")

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the test questions; see :meth:`Task.load`."""
        found = find_benchmark(
            source, self.title, medframeqa.LAYOUT, "MedFrameQA/data/test-*.parquet (SuhaoYu1020/MedFrameQA on the hub)"
        )
        images_of = RowImages(found, medframeqa.LAYOUT, options, embedded=True)
        rows = [choice_row(it, images_of) for it in medframeqa.questions(found, Strict(self.title))]
        return published_benchmark(found, rows, roots=images_of.roots, expected=PUBLISHED)
