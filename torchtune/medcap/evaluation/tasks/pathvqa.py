"""PathVQA: questions about pathology figures, half of them closed."""

from __future__ import annotations

from pathlib import Path

from medcap.data.conversations import CONVERSATION_KEYS
from medcap.datasets.published.fields import field_text, field_words
from medcap.datasets.published.llava_turns import conversation_questions
from medcap.errors import UserError
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task, make_benchmark
from medcap.evaluation.tasks.official import (
    DERIVED_TYPES,
    answer_type_of,
    find_benchmark,
    image_finder,
    official_row,
    read_json,
    require_keys,
    yes_no_type,
)
from medcap.evaluation.tasks.parquet import TEST_FILES, hub_rows
from medcap.scoring.question import Question

# The card of flaviagiammarino/path-vqa, which lacks the repeated questions; LLaVA-Med's test.json and its split.
PUBLISHED_HUB = {"rows": 6_719}
PUBLISHED = {"rows": 6_761, "OPEN": 3_370, "CLOSED": 3_391}
_SUFFIXES = ("", ".jpg", ".png")
_ID_KEYS = ("question_id", "qid", "id")


class PathVqaTask(Task):
    """The test questions of the hub's copy ``flaviagiammarino/path-vqa``, or of a JSON file.

    The parquet files have image, question and answer. A JSON file has LLaVA-Med's rows (``image``,
    ``conversations``, ``answer_type``) or rows of ``image``, ``question`` and ``answer``, where ``image`` may lack
    its suffix as in the official files. Those are pickles, which run code when they are opened, and are refused.
    """

    name = "pathvqa"
    title = "PathVQA"
    protocols = ("exact", "llava_med", "llava_med_strict")

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the test questions; see :meth:`Task.load`."""
        found = find_benchmark(
            source,
            self.title,
            ("path-vqa", "PathVQA", "pathvqa", "path_vqa", "pvqa", "pvqa/pvqa"),
            {
                "hub": TEST_FILES,
                "json": ("test.json", "test.jsonl", "test_qa.json", "test_vqa.json", "qas/test/*.json"),
                "pickle": ("qas/test/*.pkl", "qas/*.pkl", "*.pkl"),
            },
            "path-vqa/data/test-*.parquet (flaviagiammarino/path-vqa on the hub), or a path-vqa/test.json of rows with"
            " image, question and answer",
        )
        if found.kind == "pickle":
            raise UserError(
                f"{found.files[0]} is a pickle, which can run code when it is opened: use the hub's copy"
                " flaviagiammarino/path-vqa (data/test-*.parquet), or write its rows to a test.json of objects with"
                " image, question and answer"
            )
        if found.kind == "hub":
            pairs, roots = hub_rows(found, options)
            rows, expected, derived = [row for _, row in pairs], PUBLISHED_HUB, True
        else:
            rows, roots, derived = _json_rows(found.files[0], found.folder, options)
            expected = PUBLISHED_HUB if len(rows) == PUBLISHED_HUB["rows"] else PUBLISHED
        return make_benchmark(
            rows,
            found.source,
            found.files,
            found.folder,
            roots=roots,
            expected=expected,
            notices=[DERIVED_TYPES] if derived else [],
        )


def _json_rows(path: Path, folder: Path, options: LoadOptions) -> tuple[list[Question], list[Path], bool]:
    find, roots = image_finder(folder, ("images", "images/test", "test"), options.image_roots)
    rows, derived = [], False
    for index, record in read_json(path):
        key = next((key for key in CONVERSATION_KEYS if key in record), None)
        if index == 0:
            require_keys(record, ("image",) if key else ("image", "question", "answer"), path, PathVqaTask.title)
        name = field_text(record.get("image"))
        image = find.first_of(*(name + suffix for suffix in _SUFFIXES)) if name else None
        problem = find.problem if name else None
        if key:
            try:
                pairs = [(asked, [answer]) for asked, answer in conversation_questions(record[key], key)]
            except UserError as error:
                raise UserError(f"{path}, row {index}: {error}") from None
        else:
            answer = record.get("answer")
            pairs = [(field_words(record.get("question")), answer if isinstance(answer, list) else [answer])]
        for question, answers in pairs:
            answer_type = answer_type_of(record.get("answer_type"))
            derived = derived or not answer_type
            rows.append(
                official_row(
                    next(filter(None, (field_text(record.get(key)) for key in _ID_KEYS)), str(index)),
                    question,
                    answers,
                    image,
                    problem,
                    answer_type=answer_type or yes_no_type([field_words(answer) for answer in answers]),
                    question_type=record.get("question_type"),
                )
            )
    return rows, roots, derived
