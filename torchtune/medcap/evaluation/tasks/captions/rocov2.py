"""ROCOv2: captions of radiology figures, scored as ImageCLEFmedical Caption scores them."""

from __future__ import annotations

from pathlib import Path

from medcap.datasets.published.captions import rocov2
from medcap.datasets.published.finding import HUB
from medcap.datasets.published.reading import Strict
from medcap.evaluation.prompting.direct import Direct
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task
from medcap.evaluation.tasks.captions.rows import caption_row
from medcap.evaluation.tasks.official import find_benchmark, published_benchmark
from medcap.evaluation.tasks.row_images import RowImages

PUBLISHED = {"rows": 9_927}  # Rückert et al., 2024, arXiv:2405.10004


class Rocov2Task(Task):
    """``test_captions.csv`` with the images ``test/<ID>.jpg``, or the hub's copy; an image is shown without a question.

    ImageCLEF's own numbers are of its hidden test images; these captions were its training and validation material.
    """

    name = "rocov2"
    title = "ROCOv2"
    protocols = ("imageclef_rouge", "coco")
    vqa_types = (Direct.name,)

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the test captions; see :meth:`Task.load`."""
        layout = rocov2.layout("test")
        found = find_benchmark(
            source,
            self.title,
            layout,
            "ROCOv2/test_captions.csv and ROCOv2/test/*.jpg (Zenodo record 8333645, test_images.zip unpacked), or"
            " ROCOv2-radiology/data/test-*.parquet (eltorio/ROCOv2-radiology on the hub)",
        )
        images_of = RowImages(found, layout, options, embedded=found.kind == HUB)
        rows = [caption_row(it, images_of) for it in rocov2.captions(found, Strict(self.title))]
        return published_benchmark(found, rows, roots=images_of.roots, expected=PUBLISHED)
