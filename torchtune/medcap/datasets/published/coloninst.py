"""ColonINST's files: colonoscopy images to classify, to locate things in, and to describe.

The layout is that of docs/guideline-for-ColonINST.md of ai4colonoscopy/IntelliScope at 573142f: a JSON array in LLaVA's
layout, in which ``id`` is the image's path. A box is ``{<x1><y1><x2><y2>}`` in pixels of the original image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from medcap.data.row_layouts import CONVERSATION_KEYS
from medcap.datasets.published.fields import field_text, question_text
from medcap.datasets.published.finding import Layout
from medcap.datasets.published.llava_turns import conversation_questions
from medcap.datasets.published.question import PublishedQuestion
from medcap.datasets.published.reading import Tally, json_records
from medcap.errors import UserError

TASKS = ("CLS", "REG", "REC", "CAP")
SPLITS = {"train": "train", "validation": "val", "test": "test"}
FOLDER = "ColonINST"
IMAGES = "Positive-images"
# Questions by the guideline's table, without tasks: images of each split, and those of them that hold a box.
PUBLISHED = {
    "validation": {"CLS": 8_929, "REG": 4_874, "REC": 4_874, "CAP": 8_929},
    "test": {"CLS": 45_284, "REG": 37_631, "REC": 37_631, "CAP": 45_284},
}
_BOX = re.compile(r"\{\s*<\s*(\d+)\s*>\s*<\s*(\d+)\s*>\s*<\s*(\d+)\s*>\s*<\s*(\d+)\s*>\s*\}")
# The five templates of the questions for a location (assets/Instruction_1.png).
_LOCATED = re.compile(
    r"(?:where is the location of|could you give the position of|could you specify the location of"
    r"|please specify the coordinates of|where is) (?P<first>.+?)(?: located)?\s*[?.]?\s*$",
    re.IGNORECASE,
)


def file_names(split: str, part: str) -> tuple[str, ...]:
    """Return the names that a file may have in the data set's folder.

    Args:
        split: a key of ``SPLITS``.
        part: ``cls``, ``reg``, ``rec``, ``cap``, or ``3tasks`` for the first three in one file.
    """
    name = SPLITS[split]
    file = f"ColonINST-{name}-{part}.json"
    return f"Json-file/{name}/{file}", f"Json-file/{file}", file


def layout(split: str, part: str) -> Layout:
    """Return the names of one file; see :func:`file_names`."""
    return Layout((FOLDER, "coloninst", "ColonINST-v1"), {part: file_names(split, part)}, (IMAGES,))


def records(path: Path, tally: Tally) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read the records of a file; an answer that is several boxes becomes the box around them.

    The published evaluation scores an answer with another number of boxes than one as wrong, and the data set's authors
    took the union where an image shows several objects of a class.

    Args:
        path: the file.
        tally: counts damaged records.

    Yields:
        The record's place in words, and the record.
    """
    for location, record in json_records(path, tally):
        tally.check_first(path, record, ("id", "conversations"))
        yield location, _with_unions(record)


def questions(path: Path, tally: Tally) -> Iterator[PublishedQuestion]:
    """Read the questions of a file, a pair of turns each; ``meta`` has ``task`` and, for REC, the ``phrase``."""
    for location, record in records(path, tally):
        key = next((key for key in CONVERSATION_KEYS if key in record), CONVERSATION_KEYS[0])
        try:
            pairs = list(conversation_questions(record.get(key), key))
        except UserError as error:
            tally.skip(str(error), location)
            continue
        image = field_text(record.get("id"))
        for turn, (asked, answer) in enumerate(pairs):
            words = question_text(asked)
            task = task_of(path, words, answer)
            name = f"{task.lower()}/{image}"
            yield PublishedQuestion(
                location,
                name if turn == 0 else f"{name}/{turn}",
                words,
                (answer,),
                image,
                turn=turn,
                meta={"task": task, "phrase": phrase_of(words, image) if task == "REC" else ""},
            )


def task_of(path: Path, question: str, answer: str) -> str:
    """Return which of ``TASKS`` a question is of: by its file, or in a file of several tasks by its boxes."""
    part = path.stem.rpartition("-")[2].upper()
    if part in TASKS:
        return part
    if _BOX.search(answer):
        return "REC"
    return "REG" if _BOX.search(question) else "CLS"


def phrase_of(question: str, image: str) -> str:
    """Return the object that a question asks the location of; else the image's class, which its folder is named by."""
    match = _LOCATED.search(question)
    return match["first"].strip() if match else PurePosixPath(image).parent.name


def _with_unions(record: Mapping[str, Any]) -> Mapping[str, Any]:
    key = next((key for key in CONVERSATION_KEYS if key in record), None)
    turns = record[key] if key is not None else None
    if key is None or not isinstance(turns, list) or not any(map(_holds_several, turns)):
        return record
    return {
        **record,
        key: [{**turn, "value": _union(turn["value"])} if _holds_several(turn) else turn for turn in turns],
    }


def _holds_several(turn: Any) -> bool:
    """Return whether a turn is an answer of several boxes and nothing else but what stands between them."""
    if not isinstance(turn, Mapping) or turn.get("from") != "gpt" or not isinstance(turn.get("value"), str):
        return False
    rest, number = _BOX.subn("", turn["value"])
    return number > 1 and not rest.replace("and", "").strip(" ,;.\n")


def _union(text: str) -> str:
    boxes = [tuple(map(int, match.groups())) for match in _BOX.finditer(text)]
    left, top, right, bottom = zip(*boxes, strict=True)
    return f"{{<{min(left)}><{min(top)}><{max(right)}><{max(bottom)}>}}"
