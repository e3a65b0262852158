"""MedSG-Bench's files: a box on one of several medical images, in eight tasks.

``Task1.json`` to ``Task8.json`` are arrays of ``task``, ``images`` (paths below the hub's folder), ``question`` and
``answer`` (``[x1, y1, x2, y2]`` in pixels of the image that is asked about). Those of ``multi_view`` have ``size``, its
width and height; the others are 336 x 336. A question holds ``<|box_start|>(x1,y1),(x2,y2)<|box_end|>`` in pixels of
the first image, and names in ``<|object_ref_start|>``. ``eval/MedSG_Bench.py`` of the benchmark's repository (read in
its copy XavierSylus/MedSG-Bench) reads them so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medcap.data.boxes.box import Box, Size
from medcap.data.boxes.notations import write_box
from medcap.datasets.published.fields import field_text, question_text
from medcap.datasets.published.finding import Layout
from medcap.datasets.published.marked import size_of_fields
from medcap.datasets.published.reading import Tally, json_records

TASKS = (
    *("Registered_Diff", "Non_Registered_Diff", "multi_view", "object_tracking"),
    *("concept", "patch", "crossmodal", "referring"),
)
LAYOUT = Layout(
    ("MedSG-Bench/MedSG-Bench", "MedSG-Bench"),
    {"json": ("Task[1-8].json", "MedSG-Bench/Task[1-8].json")},
    ("", "images"),
)
_BOX = re.compile(r"<\|box_start\|>\((\d+),\s*(\d+)\),\s*\((\d+),\s*(\d+)\)<\|box_(?:end|start)\|>")
_TAGS = re.compile(r"<\|object_ref_(?:start|end)\|>")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_TARGET = re.compile(rf"\bin the ({'|'.join(_ORDINALS)}) image", re.IGNORECASE)
_CASE = re.compile(r"^([^_]+)_.*?casenum_(.+?)(?:_sliceid|_top|_front|_side|$)")


@dataclass(frozen=True, slots=True)
class SequenceQuestion:
    """A question about several images.

    Attributes:
        location: the file and row.
        task: one of ``TASKS``.
        images: for each image the names that it may have.
        question: with its boxes as the file has them; see :func:`words_of`.
        answer: left, top, right and bottom in pixels, unchecked.
        size: of the image that the answer is on, where the file says it.
        target: number of that image.
        patient: the set and the case that the first image's name holds; "" for none.
    """

    location: str
    task: str
    images: tuple[tuple[str, ...], ...]
    question: str
    answer: Any
    size: Size | None
    target: int
    patient: str


def questions(path: Path, tally: Tally) -> Iterator[SequenceQuestion]:
    """Read the questions of a file."""
    for location, record in json_records(path, tally):
        tally.check_first(path, record, ("images", "question", "answer"))
        images, question = record.get("images"), question_text(record.get("question"))
        if not isinstance(images, list) or not images or not all(isinstance(name, str) and name for name in images):
            tally.skip("'images' is not a list of paths", location)
            continue
        task = field_text(record.get("task"))
        size = record.get("size")
        case = _CASE.search(PurePosixPath(images[0]).stem)
        yield SequenceQuestion(
            location,
            task,
            tuple(_names(name) for name in images),
            question,
            record.get("answer"),
            size_of_fields(*size) if isinstance(size, list) and len(size) == 2 else None,
            _target(task, question, len(images)),
            f"{case[1]} {case[2]}" if case else "",
        )


def words_of(question: str, size: Size) -> str:
    """Return a question's words: its boxes in thousandths, its names without their tags.

    Args:
        question: as in the file.
        size: of the first image, which its boxes are on.
    """

    def written(match: re.Match[str]) -> str:
        left, top, right, bottom = map(int, match.groups())
        box = Box((left / size[0], top / size[1], right / size[0], bottom / size[1]))
        return write_box(box, "thousandths", size)

    return _TAGS.sub("", _BOX.sub(written, question))


def _target(task: str, question: str, number: int) -> int:
    if task == "patch":  # a region of the first image is asked for
        return 0
    named = _TARGET.findall(question)
    index = _ORDINALS.index(named[-1].lower()) if named else number - 1
    return min(index, number - 1)


def _names(path: str) -> tuple[str, ...]:
    """Return the names of an image: the file's path begins with the hub's folders."""
    parts = PurePosixPath(path).parts
    names = ("/".join(parts[start:]) for start in range(min(3, len(parts))))
    return tuple(name for name in names if not name.startswith("/") and ".." not in parts) or (path,)
