"""GMAI-MMBench: options about images of 38 modalities."""

from __future__ import annotations

from pathlib import Path

from medcap.datasets.published.choices import gmai_mmbench
from medcap.datasets.published.reading import Strict
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task
from medcap.evaluation.tasks.choices.rows import PROTOCOLS, choice_row
from medcap.evaluation.tasks.official import find_benchmark, published_benchmark
from medcap.evaluation.tasks.row_images import RowImages


class GmaiMmBenchTask(Task):
    """``GMAI_mm_bench_VAL.tsv``, the part whose answers are public; ``question_type`` is the clinical task."""

    name = "gmai_mmbench"
    title = "GMAI-MMBench"
    protocols = (*PROTOCOLS, "vlmevalkit")

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the validation questions; see :meth:`Task.load`."""
        found = find_benchmark(
            source,
            self.title,
            gmai_mmbench.LAYOUT,
            "GMAI-MMBench/GMAI_mm_bench_VAL.tsv (OpenGVLab/GMAI-MMBench on the hub)",
        )
        images_of = RowImages(found, gmai_mmbench.LAYOUT, options, embedded=True)
        rows = [choice_row(it, images_of) for it in gmai_mmbench.questions(found, Strict(self.title))]
        return published_benchmark(
            found,
            rows,
            roots=images_of.roots,
            notices=["the answers of the test part are withheld: this is validation"],
        )
