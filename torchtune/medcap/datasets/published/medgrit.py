"""Med-GRIT-270k's files: conversations about regions of medical images in Qwen-VL's notation.

A JSON array of ``{"id": "ct_00--AbdomenCT1K--Case_00220--x_0359", "conversations": [[question, answer], ...]}``. The
image is ``<id>.png`` of SA-Med2D-20M, whatever stands in the first question's ``Picture 1: <img>..</img>``; a box is
``<ref>liver</ref><box>(x1,y1),(x2,y2)</box>`` in thousandths of the image's width and height. ``infer.py`` of
ShawnHuang497/BiRD at b588ecb reads it so; its scripts name the test files ``..._chatlm_VG_img_coord_OneConv.json``, and
likewise ``_RO_``, ``_GC_`` and ``_MII_``; the paper calls these ROC, RC and MIA.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import Layout
from medcap.datasets.published.reading import Tally, json_records

TASKS = ("VG", "ROC", "RC", "MIA")
# The names of a task in the names of files.
_FILE_WORDS = {"VG": ("VG",), "ROC": ("RO", "ROC"), "RC": ("GC", "RC"), "MIA": ("MII", "MIA")}
FOLDERS = ("Med-GRIT-270k", "Med-GRIT", "MedGRIT", "medgrit", "SAMed2Dv1")
IMAGES = ("images",)
_PICTURE = re.compile(r"\s*(?:Picture\s*\d*\s*:\s*)?<img>(?P<name>.*?)</img>\s*")
_NAME = re.compile(r"<ref>(.*?)</ref>")
_BOX = "<box>"


@dataclass(frozen=True, slots=True)
class Conversation:
    """One record.

    Attributes:
        location: the file and row.
        id: the record's name.
        images: names that the image may have, the official one first.
        turns: questions without the picture's tag, and their answers.
    """

    location: str
    id: str
    images: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]


def layout(split: str) -> Layout:
    """Return the names of a split's files, ``train`` or ``test``; a kind of test files is a task."""
    if split == "train":
        return Layout(FOLDERS, {"train": ("*train*.json", "train/*.json")}, IMAGES)
    kinds = {
        task: tuple(
            pattern for word in words for pattern in (f"*test*_{word}_*.json", f"test/*_{word}_*.json", f"{word}.json")
        )
        for task, words in _FILE_WORDS.items()
    }
    return Layout(FOLDERS, kinds, IMAGES)


def conversations(path: Path, tally: Tally) -> Iterator[Conversation]:
    """Read the records of a file."""
    for index, (location, record) in enumerate(json_records(path, tally)):
        tally.check_first(path, record, ("id", "conversations"))
        pairs = record.get("conversations")
        if not isinstance(pairs, list) or not pairs or not all(map(_is_pair, pairs)):
            tally.skip("'conversations' is not a list of questions with their answers", location)
            continue
        picture = _PICTURE.search(pairs[0][0])
        turns = tuple((_PICTURE.sub("", asked).strip(), answered.strip()) for asked, answered in pairs)
        names = _image_names(record, picture["name"] if picture else "")
        if not names:
            tally.skip("neither 'id' nor <img> names an image", location)
            continue
        yield Conversation(location, field_text(record.get("id")) or str(index), names, turns)


def task_of(path: Path, question: str, answer: str) -> str:
    """Return which of ``TASKS`` a question is of: by the file's name, else by where its boxes and words are."""
    words = re.split(r"[^A-Za-z]+", path.stem)
    for task, names in _FILE_WORDS.items():
        if any(name in words for name in names):
            return task
    if _BOX in answer:
        return "VG"
    if _BOX not in question:
        return "MIA"
    return "ROC" if len(answer.split()) <= 4 else "RC"


def phrase_of(question: str) -> str:
    """Return the object that a question names in ``<ref>``; "" for none."""
    match = _NAME.search(question)
    return match[1].strip() if match else ""


def modality_of(image: str) -> str:
    """Return the modality that an image's name begins with, such as ``ct``; "" for another name."""
    return image.partition("_")[0] if "--" in image else ""


def patient_of(image: str) -> str:
    """Return the set and the case of an image's name, ``<modality>_00--<set>--<case>--<slice>``; "" for another."""
    parts = PurePosixPath(image).stem.split("--")
    return "--".join(parts[1:3]) if len(parts) >= 4 else ""


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def _image_names(record: Mapping[str, Any], written: str) -> tuple[str, ...]:
    name, written = field_text(record.get("id")), written.strip()
    official = [f"{name}.png", f"{name}.jpg", name] if name else []
    own = [written.removeprefix("images/"), PurePosixPath(written).name] if written else []
    names = dict.fromkeys((*official[:1], *own, *official[1:]))
    return tuple(it for it in names if it and not it.startswith("/") and ".." not in PurePosixPath(it).parts)
