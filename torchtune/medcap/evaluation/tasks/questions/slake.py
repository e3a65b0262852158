"""SLAKE: questions about radiology images in English and Chinese, of which the English ones are asked."""

from __future__ import annotations

from pathlib import Path

from medcap.datasets.published import slake
from medcap.datasets.published.finding import HUB
from medcap.datasets.published.reading import Strict
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task
from medcap.evaluation.tasks.official import (
    DERIVED_TYPES,
    answer_type_of,
    find_benchmark,
    published_benchmark,
    row_maker,
)

# The English part of the test set; LLaVA-Med's split into open and closed (llava_med_vqa.png of its README).
PUBLISHED = {"rows": 1_061, "OPEN": 645, "CLOSED": 416}


class SlakeTask(Task):
    """The English questions of ``Slake1.0/test.json``, or of the hub's copies.

    In the copy ``mdwiratathya/SLAKE-vqa-english``, a question without an ``answer_type`` is closed where its answer is
    yes or no.
    """

    name = "slake"
    title = "SLAKE"
    protocols = ("exact", "llava_med", "llava_med_strict")

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the 1,061 English test questions; see :meth:`Task.load`."""
        layout = slake.layout("test")
        found = find_benchmark(
            source,
            self.title,
            layout,
            "Slake1.0/test.json and Slake1.0/imgs (BoKelvin/SLAKE on the hub), or"
            " SLAKE-vqa-english/data/test-*.parquet (mdwiratathya/SLAKE-vqa-english on the hub)",
        )
        make_row, roots = row_maker(found, layout, options)
        questions = list(slake.questions(found, Strict(self.title)))
        rows = [make_row(question) for question in questions if question.language in slake.ENGLISH]
        hub, others = found.kind == HUB, len(questions) - len(rows)
        derived = hub and not any(answer_type_of(question.answer_type) for question in questions)
        left_out = [f"{others:,} questions in other languages than English are left out"] if others and not hub else []
        return published_benchmark(
            found,
            rows,
            roots=roots,
            expected={"rows": PUBLISHED["rows"]} if derived else PUBLISHED,
            notices=[DERIVED_TYPES] if derived else left_out,
        )
