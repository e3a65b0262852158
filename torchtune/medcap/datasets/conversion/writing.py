"""Examples -> a file that training reads, row by row."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcap.data.row_layouts import folder_of
from medcap.datasets.conversion.example import Example, Tally
from medcap.datasets.conversion.instructions import Instructions
from medcap.datasets.rows.sharegpt import conversation_row
from medcap.errors import UserError
from medcap.files import atomic_file
from medcap.plurals import none_of

MISSING = "the image is missing"
SUFFIXES = (".jsonl", ".json")
_BUFFER = 1 << 20  # bytes
_encode = json.JSONEncoder(ensure_ascii=False).encode


@dataclass
class Written:
    """A file that was written.

    Attributes:
        path: its name.
        rows: that it has.
        tally: what was read and left out.
        missing: rows that were kept although their image is missing.
        folders: folders that the images lie in, links followed.
    """

    path: Path
    rows: int
    tally: Tally
    missing: int = 0
    folders: set[str] = field(default_factory=set)


class RowWriter:
    """Turns examples into rows.

    Args:
        instructions: chooses what comes before a caption.
        limit: rows to write at most; None for all.
        keep_missing: keep rows whose image is not there.
    """

    def __init__(self, instructions: Instructions, limit: int | None = None, keep_missing: bool = False) -> None:
        self._instructions = instructions
        self._limit = limit
        self._keep_missing = keep_missing
        self._checked: set[str] = set()

    def write(self, path: Path, examples: Iterable[tuple[str, Example]], tally: Tally) -> Written:
        """Write a file so that its name only ever means a whole one.

        Args:
            path: ends in ``.jsonl`` (a row a line) or ``.json`` (an array, also a row a line).
            examples: the location of each example and the example.
            tally: what the source counts; what is left out here is counted too.

        Returns:
            The summary of the written file.

        Raises:
            UserError: if there is not one row to write; then no file is written.
        """
        written = Written(path, 0, tally)
        array = path.suffix == ".json"
        try:
            with atomic_file(path) as temporary, temporary.open("wb", buffering=_BUFFER) as file:
                for line in self._lines(examples, written):
                    if array:
                        file.write(b",\n" if written.rows > 1 else b"[\n")
                    file.write(line)
                    if not array:
                        file.write(b"\n")
                if array:
                    file.write(b"\n]\n")
                if not written.rows:
                    raise UserError(_nothing_left(path, tally))
        except OSError as error:
            raise UserError(f"{error.filename or path} cannot be read or written: {error.strerror}") from error
        return written

    def _lines(self, examples: Iterable[tuple[str, Example]], written: Written) -> Iterator[bytes]:
        for location, example in examples:
            row = self._row(location, example, written)
            if row is None:
                continue
            try:
                line = _encode(row).encode("utf-8")
            except UnicodeEncodeError:
                written.tally.skip("half of a character, which no text may hold", location)
                continue
            written.rows += 1
            yield line
            if written.rows == self._limit:
                return

    def _check_folder(self, folder: str) -> None:
        # [Contract] what is read from the row must be the folder that was meant.
        if folder not in self._checked and folder_of(f"dir={folder}") != folder:
            raise UserError(f"the folder {folder!r} cannot stand in a row's meta: choose a name without ';' and '='")
        self._checked.add(folder)

    def _row(self, location: str, example: Example, written: Written) -> dict[str, Any] | None:
        name = None
        if example.images:
            self._check_folder(example.folder)
            name = None
            for names in (example.images, *((further,) for further in example.further)):
                found = self._find_image(names, example.folder, written)
                if found is None:
                    written.tally.skip(MISSING, os.path.join(example.folder, names[0]))
                    return None
                name = name or found
        turns = example.turns
        if example.prompts is not None:
            turns = [(self._instructions.choose(example.prompts), turns[0][1]), *turns[1:]]
        row = conversation_row(turns, name, example.folder, example.image_last, example.further)
        if not all(turn["value"] for turn in row["conversations"][1 if name else 0 :]):
            written.tally.skip("a turn without words", location)
            return None
        return {**row, **example.fields}

    def _find_image(self, names: Sequence[str], place: str, written: Written) -> str | None:
        for name in names:
            folder = _folder_of(os.path.join(place, name))
            if folder is not None:
                written.folders.add(folder)
                return name
        if not self._keep_missing:
            return None
        written.missing += 1
        return names[0]


def _folder_of(path: str) -> str | None:
    """Return the folder of an image; of a link, that of what it leads to. None if there is no such file."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if stat.S_ISLNK(found.st_mode):
        path = os.path.realpath(path)
        return os.path.dirname(path) if os.path.isfile(path) else None
    return os.path.dirname(path) if stat.S_ISREG(found.st_mode) else None


def _nothing_left(path: Path, tally: Tally) -> str:
    reasons = "; ".join(
        f"{number:,}: {reason} (first: {tally.first[reason]})" for reason, number in tally.skipped.items()
    )
    if not reasons:
        return f"{path.name}: the source holds nothing to convert"
    hint = ""
    if MISSING in tally.skipped:
        hint = "; put the images there, or keep such rows by --keep-missing, as for images in tar files"
    return f"{path.name}: {none_of(tally.read, 'record')} can be used, {reasons}{hint}"
