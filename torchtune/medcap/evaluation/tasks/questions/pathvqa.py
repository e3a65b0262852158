"""PathVQA: questions about pathology figures, half of them closed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medcap.datasets.published import pathvqa
from medcap.datasets.published.finding import HUB
from medcap.datasets.published.reading import Strict
from medcap.errors import UserError
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task
from medcap.evaluation.tasks.official import (
    DERIVED_TYPES,
    answer_type_of,
    find_benchmark,
    published_benchmark,
    row_maker,
)

# The card of flaviagiammarino/path-vqa, which lacks the repeated questions; LLaVA-Med's test.json and its split.
PUBLISHED_HUB = {"rows": 6_719}
PUBLISHED = {"rows": 6_761, "OPEN": 3_370, "CLOSED": 3_391}


class PathVqaTask(Task):
    """The test questions of the hub's copy ``flaviagiammarino/path-vqa``, or of a JSON file.

    The official files are pickles, which run code when they are opened, and are refused.
    """

    name = "pathvqa"
    title = "PathVQA"
    protocols = ("exact", "llava_med", "llava_med_strict")

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the test questions; see :meth:`Task.load`."""
        layout = pathvqa.layout("test")
        found = find_benchmark(
            source,
            self.title,
            replace(layout, kinds={**layout.kinds, "pickle": ("qas/test/*.pkl", "qas/*.pkl", "*.pkl")}),
            "path-vqa/data/test-*.parquet (flaviagiammarino/path-vqa on the hub), or a path-vqa/test.json of rows with"
            " image, question and answer",
        )
        if found.kind == "pickle":
            raise UserError(
                f"{found.files[0]} is a pickle, which can run code when it is opened: use the hub's copy"
                " flaviagiammarino/path-vqa (data/test-*.parquet), or write its rows to a test.json of objects with"
                " image, question and answer"
            )
        make_row, roots = row_maker(found, layout, options, derive=True)
        questions = list(pathvqa.questions(found, Strict(self.title)))
        hub = found.kind == HUB
        derived = hub or not all(answer_type_of(question.answer_type) for question in questions)
        return published_benchmark(
            found,
            [make_row(question) for question in questions],
            roots=roots,
            expected=PUBLISHED_HUB if hub or len(questions) == PUBLISHED_HUB["rows"] else PUBLISHED,
            notices=[DERIVED_TYPES] if derived else [],
        )
