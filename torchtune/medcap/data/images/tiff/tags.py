"""The first directory of a TIFF or BigTIFF file: its numbers, read within bounds."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

from medcap.errors import UserError

# TIFF 6.0, section 8 and following; the names are those of the specification.
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 277, 278, 279
PLANAR, PREDICTOR, COLOUR_MAP, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES = 284, 317, 320, 322, 323, 324, 325
INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT = 332, 338, 339
_KNOWN = {
    *(WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP),
    *(STRIP_BYTES, PLANAR, PREDICTOR, COLOUR_MAP, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES, INK_SET),
    *(EXTRA_SAMPLES, SAMPLE_FORMAT),
}
_STARTS: dict[bytes, tuple[Literal["<", ">"], bool]] = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # whole numbers without a sign
_MAX_ENTRIES = 65_535
_MAX_VALUES = 4_000_000  # bytes of one tag: the strips of a large file


@dataclass(frozen=True)
class Tags:
    """Tags that hold whole numbers.

    Attributes:
        order: ``<`` or ``>``, the byte order of the file.
        big: whether it is a BigTIFF file.
        position: where the directory begins, in bytes.
        values: values by tag number.
    """

    order: Literal["<", ">"]
    big: bool
    position: int
    values: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def one(self, tag: int, default: int) -> int:
        """Return the first value of a tag."""
        return self.values.get(tag, (default,))[0]


def is_tiff(start: bytes) -> bool:
    """Return whether a file is a TIFF file, by its first bytes."""
    return start[:4] in _STARTS


def read_tags(file: BinaryIO) -> Tags:
    """Read the first directory.

    Args:
        file: a TIFF file, at its beginning; left anywhere.

    Raises:
        UserError: if the directory is cut off or holds more than any picture needs.
    """
    order, big = _STARTS[file.read(4)]
    if big:
        file.seek(8)
    (position,) = _numbers(file, order, "Q" if big else "I", 1)
    file.seek(position)
    (count,) = _numbers(file, order, "Q" if big else "H", 1)
    if not 0 < count <= _MAX_ENTRIES:
        raise UserError(f"is damaged: its TIFF directory has {count} entries")
    size, inline = (20, 8) if big else (12, 4)
    entries = file.read(count * size)
    if len(entries) < count * size:
        raise UserError("is damaged: its TIFF directory is cut off")
    tags = Tags(order, big, position)
    for number in range(count):
        entry = entries[number * size : (number + 1) * size]
        tag, kind, length = struct.unpack(f"{order}HH{'Q' if big else 'I'}", entry[:-inline])
        if tag not in _KNOWN or kind not in _TYPES or not length or tag in tags.values:
            continue
        if length > _MAX_VALUES:
            raise UserError(f"is damaged: its TIFF tag {tag} has {length:,} values")
        width = struct.calcsize(_TYPES[kind])
        if length * width <= inline:
            tags.values[tag] = struct.unpack(f"{order}{length}{_TYPES[kind]}", entry[-inline:][: length * width])
        else:
            file.seek(struct.unpack(f"{order}{'Q' if big else 'I'}", entry[-inline:])[0])
            tags.values[tag] = _numbers(file, order, _TYPES[kind], length)
    return tags


def _numbers(file: BinaryIO, order: str, kind: str, count: int) -> tuple[int, ...]:
    size = struct.calcsize(kind) * count
    found = file.read(size)
    if len(found) < size:
        raise UserError("is damaged: its TIFF directory is cut off")
    return struct.unpack(f"{order}{count}{kind}", found)
