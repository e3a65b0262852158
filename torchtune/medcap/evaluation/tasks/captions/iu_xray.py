"""IU X-Ray: radiology reports of chest X-rays in two views."""

from __future__ import annotations

from pathlib import Path

from medcap.datasets.published.captions import iu_xray
from medcap.datasets.published.reading import Strict
from medcap.evaluation.prompting.direct import Direct
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task
from medcap.evaluation.tasks.captions.rows import caption_row
from medcap.evaluation.tasks.official import find_benchmark, published_benchmark
from medcap.evaluation.tasks.row_images import RowImages

PUBLISHED = {"rows": 590}  # R2Gen's split: 2,069 for training, 296 for validation


class IuXrayTask(Task):
    """``annotation.json`` of R2Gen or ``test.json`` of MedEvalKit, with ``images``; all views are shown together.

    R2Gen scores lower-cased reports that are cut after 60 words, with rare words replaced; here a report is scored
    whole, so figures of its tables are near these and not equal.
    """

    name = "iu_xray"
    title = "IU X-Ray"
    protocols = ("coco", "imageclef_rouge")
    vqa_types = (Direct.name,)

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the test reports; see :meth:`Task.load`."""
        found = find_benchmark(
            source,
            self.title,
            iu_xray.LAYOUT,
            "iu_xray/annotation.json and iu_xray/images (iu_xray.zip of zhjohnchan/R2Gen), or IU_XRAY/test.json of"
            " MedEvalKit",
        )
        images_of = RowImages(found, iu_xray.LAYOUT, options)
        words = iu_xray.WORDS[found.kind]
        rows = [caption_row(it, images_of, words) for it in iu_xray.reports(found, Strict(self.title))]
        expected = PUBLISHED if found.kind == iu_xray.R2GEN else None
        return published_benchmark(found, rows, roots=images_of.roots, expected=expected)
