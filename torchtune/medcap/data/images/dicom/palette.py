"""Palettes of DICOM: an index -> a colour (PS3.3, C.7.6.3.1.5, C.7.6.3.1.6 and C.7.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medcap.data.images.dicom.lookup_table import LookupTable, read_descriptor, table_bytes, table_entries
from medcap.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2
_USUAL_BITS = (8, 10, 12, 16)


def palette_colours(indices: np.ndarray, dataset: Dataset, little_endian: bool) -> np.ndarray:
    """Look up the colours of a PALETTE COLOR image.

    Args:
        indices: stored values ``[rows, columns]``.
        dataset: the file's.
        little_endian: its byte order.

    Returns:
        uint8 ``[rows, columns, 3]``.

    Raises:
        UserError: if a palette is missing or contradicts its descriptor.
    """
    tables = [_read_palette(dataset, colour, little_endian) for colour in ("Red", "Green", "Blue")]
    shift = _bits(tables) - 8
    return np.stack([table.apply(indices) >> shift for table in tables], axis=-1).astype(np.uint8)


def _bits(tables: list[LookupTable]) -> int:
    """Return the number of bits of the brightest entry of the three tables.

    The descriptor does not say it: entries of 8 bits are written with a descriptor of 16, and of 16 bits (each byte
    twice) with one of 8. Dark colours throughout are rarer than either.
    """
    top = max(int(table.entries.max()) for table in tables)
    said = max(table.bits for table in tables)
    if 8 < said < 16 and top < 2**said:
        return said
    return next(bits for bits in _USUAL_BITS if top < 2**bits)


def _read_palette(dataset: Dataset, colour: str, little_endian: bool) -> LookupTable:
    name = f"{colour.lower()} palette"
    count, first, bits = read_descriptor(dataset, f"{colour}PaletteColorLookupTableDescriptor", little_endian, name)
    data = table_bytes(dataset, f"{colour}PaletteColorLookupTableData", little_endian)
    if data:
        return LookupTable(first, bits, table_entries(data, count, bits, name))
    data = table_bytes(dataset, f"Segmented{colour}PaletteColorLookupTableData", little_endian)
    if not data:
        raise UserError(f"has no data of its {name}: correct the file")
    # As with plain tables, entries of 8 bits may be in words.
    for kind in ("u1", "<u2") if bits <= 8 else ("<u2", "u1"):
        values = np.frombuffer(data[: len(data) // 2 * 2], dtype=kind).astype(np.int64)
        entries = _expand(values, count, np.dtype(kind).itemsize)
        if entries is not None:
            return LookupTable(first, bits, entries)
    raise UserError(f"has a segmented {name} that does not make {count} entries: correct the file")


def _expand(values: np.ndarray, count: int, width: int) -> np.ndarray | None:
    """Write out a segmented table (C.7.9.2); None where it does not make ``count`` entries.

    Args:
        values: values of all segments, int64.
        count: entries of the table.
        width: bytes of a value.
    """
    table: list[np.ndarray] = []
    last: int | None = None
    made = 0

    def segment(position: int, within: bool) -> int | None:
        """Add the segment at a place and return the position after it, None for a damaged one."""
        nonlocal last, made
        if position + 2 > len(values):
            return None
        kind, length = int(values[position]), int(values[position + 1])
        position += 2
        if kind == _INDIRECT and not within:
            words = values[position : position + 4 // width]
            if len(words) < 4 // width:
                return None
            source = int(sum(int(word) << (8 * width * number) for number, word in enumerate(words)))
            copied: int | None = source // width
            for _ in range(length):
                copied = segment(copied, True)
                if copied is None or made > count:
                    return None
            return position + 4 // width
        if kind == _DISCRETE and length:
            part = values[position : position + length]
            if len(part) < length:
                return None
            position += length
        elif kind == _LINEAR and length and last is not None and position < len(values):
            part = np.round(np.linspace(last, values[position], length + 1)[1:]).astype(np.int64)
            position += 1
        else:
            return None
        table.append(part)
        made += length
        last = int(part[-1])
        return position

    position: int | None = 0
    while made < count:
        position = segment(position, False)
        if position is None:
            return None
    # After the last segment only a zero may follow, which makes the length even.
    if made != count or np.any(values[position:]) or len(values) - position > 1:
        return None
    return np.concatenate(table)
