"""PMC-VQA: four-option questions about the figures of articles."""

from __future__ import annotations

from pathlib import Path

from medcap.datasets.published import pmcvqa
from medcap.datasets.published.reading import Strict
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task
from medcap.evaluation.tasks.official import find_benchmark, published_benchmark, row_maker

# Zhang et al., PMC-VQA, 2023: the verified part of the test set, the test set, and that of version 2.
PUBLISHED = {"test_clean.csv": 2_000, "test.csv": 50_000, "test_2.csv": 33_430}


class PmcVqaTask(Task):
    """``test_clean.csv``, ``test.csv`` or ``test_2.csv`` of ``xmcmic/PMC-VQA`` (now ``RadGenome/PMC-VQA``).

    The first of them that is there is read unless one is named.
    """

    name = "pmcvqa"
    title = "PMC-VQA"
    protocols = ("option_text", "omnimedvqa_qa")
    mode_protocols = ("medcap_option", "medcap_letter")

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read one of the test sets; see :meth:`Task.load`."""
        layout = pmcvqa.layout("test")
        found = find_benchmark(
            source,
            self.title,
            layout,
            "PMC-VQA/test_clean.csv and PMC-VQA/images (RadGenome/PMC-VQA on the hub, its zip files unpacked)",
        )
        path = found.files[0]
        make_row, roots = row_maker(found, layout, options)
        number = PUBLISHED.get(path.name.replace("test2", "test_2"))
        others = [name for name in pmcvqa.FILES["test"] if name != path.name and (found.folder / name).is_file()]
        return published_benchmark(
            found,
            [make_row(question) for question in pmcvqa.questions(found, Strict(self.title))],
            roots=roots,
            expected={"rows": number} if number else None,
            notices=[f"{path.name} is read; name the file to read {' or '.join(others)}"]
            if others and not found.named
            else [],
        )
