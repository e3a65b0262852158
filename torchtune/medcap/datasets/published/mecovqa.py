"""MeCoVQA's files: questions about images of SA-Med2D-20M, about a region of one, and masks.

A JSON array in LLaVA's layout: ``{"image": "images/ct_00--....png", "conversations": [...]}``. A region is
``<region>masks/....png</region>`` in a question; a mask stands behind its word, as
``<SEG><mask>masks_merged/....png</mask>`` (ShawnHuang497/MedPLIB, ``datasets/LazySupervisedDataset.py``). SA-Med2D-20M
has a file for each instance, ``masks/<image>--<class>_<instance>.png``, and no ``masks_merged``: those are all
instances of a class together, as the authors say (issue 3 of ShawnHuang497/MedPLIB), and are made here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from medcap.data.regions.mask_tags import take_mask_files
from medcap.data.regions.region import MaskFile
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import Layout
from medcap.datasets.published.llava_turns import conversation_questions
from medcap.datasets.published.medgrit import modality_of, patient_of
from medcap.datasets.published.reading import Tally, json_records
from medcap.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from medcap.data.images.reader import ImageReader

PARTS = ("complex", "region", "grounding")
FOLDERS = ("MeCoVQA", "mecovqa", "MedPLIB", "SAMed2Dv1")
IMAGES = ("SAMed2Dv1",)
REGION_WORDS = "<region></region>"
_WORDS = {"complex": "Complex", "region": "Region", "grounding": "Grounding"}
_REGION = re.compile(r"<region>\s*([^<>]+?)\s*</region>")
_MERGED = re.compile(r"^(?P<image>.+--\d+)_merged(?P<suffix>\.\w+)$")
_CLOSED, _OPEN = ("closed", "yes/no"), ("open", "other", "number")


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer.

    Attributes:
        question: the words; ``<region></region>`` stands for each of ``regions``.
        answer: the words; ``<SEG>`` stands for each of ``masks``.
        regions: mask files of the question.
        masks: mask files of the answer.
    """

    question: str
    answer: str
    regions: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """One record.

    Attributes:
        location: the file and row.
        id: the record's name.
        part: one of ``PARTS``.
        images: names that the image may have.
        turns: at least one.
        answer_type: ``OPEN``, ``CLOSED``, or "" where the record does not say it.
    """

    location: str
    id: str
    part: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    answer_type: str


def layout(split: str) -> Layout:
    """Return the names of the files of a split, ``train`` or ``test``, by their part."""
    kinds = {
        part: (f"*{word}*{split}*.json", f"{split}/*{word}*.json", f"*/*{word}*{split}*.json")
        for part, word in _WORDS.items()
    }
    return Layout(FOLDERS, kinds, IMAGES)


def image_folders(folder: Path) -> list[Path]:
    """Return the folders that the paths of a file in ``folder`` may be relative to."""
    places = [parent / name for parent in (folder, folder.parent, folder.parent.parent) for name in IMAGES]
    return [place for place in places if place.is_dir()]


def conversations(path: Path, tally: Tally) -> Iterator[Conversation]:
    """Read the records of a file."""
    for index, (location, record) in enumerate(json_records(path, tally)):
        tally.check_first(path, record, ("image", "conversations"))
        name = field_text(record.get("image"))
        if not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
            tally.skip("there is no usable 'image'", location)
            continue
        try:
            pairs = list(conversation_questions(record.get("conversations"), "conversations"))
        except UserError as error:
            tally.skip(str(error), location)
            continue
        turns = tuple(_turn(asked, answered) for asked, answered in pairs)
        names = tuple(dict.fromkeys((name, f"images/{PurePosixPath(name).name}")))
        kind = field_text(record.get("answer_type")).lower()
        answer_type = "CLOSED" if kind in _CLOSED else "OPEN" if kind in _OPEN else ""
        own = field_text(record.get("id")) or str(index)
        yield Conversation(location, own, _part_of(path, turns), names, turns, answer_type)


class MaskFiles:
    """Reads the masks that rows name, also the merged ones that SA-Med2D-20M lacks.

    Args:
        reader: opens the files.
        folders: folders with ``masks`` and perhaps ``masks_merged``.
        wanted: every mask file that rows name: a folder of millions of files is then listed once.
    """

    def __init__(self, reader: ImageReader, folders: Iterable[Path], wanted: Iterable[str]) -> None:
        self._reader = reader
        self._instances: dict[str, list[str]] = {}
        merged = {match["image"] for name in wanted if (match := _merged(name))}
        for folder in dict.fromkeys(folders) if merged else ():
            if (folder / "masks").is_dir():
                self._list((folder / "masks").resolve(), merged)
        self.made = 0

    def __call__(self, name: str) -> np.ndarray:
        """Return a mask, ``[H, W]`` bool: that of its file, or that of all instances of its class.

        Raises:
            UserError: if there is neither, or a file cannot be read.
        """
        import numpy as np

        from medcap.data.regions.draw import read_mask

        try:
            return read_mask(MaskFile(name), self._reader)
        except UserError:
            match = _merged(name)
            files = sorted(self._instances.get(match["image"], ())) if match else []
            if not files:
                raise
        masks = [read_mask(MaskFile(file), self._reader) for file in files]
        if any(mask.shape != masks[0].shape for mask in masks):
            raise UserError(f"{name} cannot be made: its {len(masks)} instances differ in size")
        self.made += 1
        return np.logical_or.reduce(masks)

    def _list(self, folder: Path, merged: set[str]) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem = PurePosixPath(entry.name).stem
                image, _, instance = stem.rpartition("_")
                if image in merged and instance.isdecimal():
                    self._instances.setdefault(image, []).append(entry.path)


def _merged(name: str) -> re.Match[str] | None:
    return _MERGED.match(PurePosixPath(name).name)


def _turn(asked: str, answered: str) -> Turn:
    words, masks = take_mask_files(answered)
    regions = tuple(_REGION.findall(asked))
    return Turn(_REGION.sub(REGION_WORDS, asked), words.strip(), regions, tuple(masks))


def _part_of(path: Path, turns: Iterable[Turn]) -> str:
    """Return the part of a record: by what it names, else by its file's name."""
    turns = list(turns)
    if any(turn.masks for turn in turns):
        return "grounding"
    if any(turn.regions for turn in turns):
        return "region"
    return "grounding" if _WORDS["grounding"] in path.stem else "complex"


def fields_of(it: Conversation) -> Mapping[str, Any]:
    """Return what a row says of a record: its part, and the modality and the patient of its image's name."""
    name = PurePosixPath(it.images[0]).name
    found = {"task": it.part, "modality": modality_of(name), "patient": patient_of(name)}
    return {key: value for key, value in found.items() if value}
