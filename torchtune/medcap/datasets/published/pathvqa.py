"""PathVQA's files: questions about pathology figures. The official files are pickles and are not read."""

from __future__ import annotations

from collections.abc import Iterator

from medcap.data.row_layouts import CONVERSATION_KEYS
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import HUB, Found, Layout, hub_files
from medcap.datasets.published.llava_turns import conversation_questions
from medcap.datasets.published.question import PublishedQuestion, read_questions
from medcap.datasets.published.reading import Tally, json_records
from medcap.errors import UserError

_SUFFIXES = ("", ".jpg", ".png")  # the official files name images without
_FOLDERS = ("path-vqa", "PathVQA", "pathvqa", "path_vqa", "pvqa", "pvqa/pvqa")
_NAMES = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
_ID_KEYS = ("question_id", "qid", "id")


def layout(split: str) -> Layout:
    """Return the names of a split's files: ``train``, ``validation`` or ``test``."""
    names = _NAMES[split]
    endings = ("{}.json", "{}.jsonl", "{}_qa.json", "{}_vqa.json", "qas/{}/*.json")
    files = tuple(ending.format(name) for ending in endings for name in names)
    images = ("images", *(f"images/{name}" for name in names[::-1]), *names)
    return Layout(_FOLDERS, {HUB: hub_files(split), "json": files}, images)


def questions(found: Found, tally: Tally) -> Iterator[PublishedQuestion]:
    """Read the hub's copy, or a JSON file: LLaVA-Med's rows (``image``, ``conversations``, ``answer_type``), or rows of
    ``image``, ``question`` and ``answer``.
    """
    if found.kind == HUB:
        yield from read_questions(found, tally)
        return
    path = found.files[0]
    for index, (location, row) in enumerate(json_records(path, tally)):
        key = next((key for key in CONVERSATION_KEYS if key in row), None)
        tally.check_first(path, row, ("image",) if key else ("image", "question", "answer"))
        answer = row.get("answer")
        pairs = [(row.get("question"), answer if isinstance(answer, list) else [answer])]
        if key is not None:
            try:
                pairs = [(asked, [answered]) for asked, answered in conversation_questions(row[key], key)]
            except UserError as error:
                tally.skip(str(error), location)
                continue
        for turn, (question, answers) in enumerate(pairs):
            yield PublishedQuestion(
                location,
                next(filter(None, (field_text(row.get(key)) for key in _ID_KEYS)), str(index)),
                question,
                answers,
                row.get("image"),
                _SUFFIXES,
                conversation=row if key else None,
                turn=turn,
                answer_type=row.get("answer_type"),
                meta={"question_type": row.get("question_type")},
            )
