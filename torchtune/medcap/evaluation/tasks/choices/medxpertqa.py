"""MedXpertQA's multimodal part: five options about one or several images."""

from __future__ import annotations

from pathlib import Path

from medcap.datasets.published.choices import medxpertqa
from medcap.datasets.published.reading import Strict
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task
from medcap.evaluation.tasks.choices.rows import PROTOCOLS, choice_row
from medcap.evaluation.tasks.official import find_benchmark, published_benchmark
from medcap.evaluation.tasks.row_images import RowImages

PUBLISHED = {"rows": 2_000}  # Zuo et al., 2025, arXiv:2501.18362


class MedXpertQaTask(Task):
    """``MM/test.jsonl`` with its ``images``; the words after "Answer Choices:" are left to the way of asking.

    ``question_type`` is Reasoning or Understanding, ``organ`` the body system, ``task`` the medical task.
    """

    name = "medxpertqa"
    title = "MedXpertQA-MM"
    protocols = (*PROTOCOLS, "vlmevalkit", "medevalkit")

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the test questions; see :meth:`Task.load`."""
        found = find_benchmark(
            source,
            self.title,
            medxpertqa.LAYOUT,
            "MedXpertQA/MM/test.jsonl and MedXpertQA/images (TsinghuaC3I/MedXpertQA on the hub, with images.zip"
            " unpacked)",
        )
        images_of = RowImages(found, medxpertqa.LAYOUT, options)
        rows = [choice_row(it, images_of) for it in medxpertqa.questions(found, Strict(self.title))]
        return published_benchmark(found, rows, roots=images_of.roots, expected=PUBLISHED)
