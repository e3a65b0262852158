"""Lookup tables of DICOM: of the modality, of the values of interest, of palettes (PS3.3, C.11.1.1, C.7.6.3.1.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medcap.data.images.dicom.elements import integers
from medcap.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class LookupTable:
    """A table that maps consecutive numbers.

    Attributes:
        first: the number that the first entry is for, with the sign that it was written with.
        bits: number of bits of an entry, as the descriptor says. Files often say it wrong: take it as a hint.
        entries: int64 ``[entries]``, never negative.
    """

    first: int
    bits: int
    entries: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Map values; a value below the first entry gets the first entry, one above the last gets the last.

        Args:
            values: numbers of any type and shape; fractions are rounded, what is not a number gets the first entry.

        Returns:
            int64 of the same shape.
        """
        last = len(self.entries) - 1
        if values.dtype.kind == "f":
            finite = values[np.isfinite(values)]
            first = self._first_for(finite)
            positions = np.clip(np.nan_to_num(np.round(values.astype(np.float64)), nan=first), first, first + last)
            return self.entries[positions.astype(np.int64) - first]
        first = self._first_for(values)
        return self.entries[np.clip(values.astype(np.int64) - first, 0, last)]

    def _first_for(self, values: np.ndarray) -> int:
        """Return the first number that is mapped: with the other sign where only then the table is about these values.

        The sign is that of the element's type, which many files write wrong.
        """
        other = self.first - 2**16 if self.first >= 2**15 else self.first + 2**16 if self.first < 0 else self.first
        if not values.size or other == self.first:
            return self.first
        low, high = values.min(), values.max()

        def maps_some(first: int) -> bool:
            return first <= high and first + len(self.entries) > low

        signed = self.first >= 2**15 and low < 0
        return other if signed or (maps_some(other) and not maps_some(self.first)) else self.first


def read_table(item: Dataset, little_endian: bool, name: str) -> LookupTable:
    """Read the table of an item of a Modality or VOI LUT Sequence.

    Args:
        item: item with LUTDescriptor and LUTData.
        little_endian: byte order of the file.
        name: what the table is, for errors.

    Returns:
        The table.

    Raises:
        UserError: if the descriptor is missing, or says another number of entries than there are.
    """
    count, first, bits = read_descriptor(item, "LUTDescriptor", little_endian, name)
    data = table_bytes(item, "LUTData", little_endian)
    return LookupTable(first, bits, table_entries(data, count, bits, name))


def read_descriptor(item: Dataset, key: str, little_endian: bool, name: str) -> tuple[int, int, int]:
    """Read the descriptor of a table: the number of entries, the first number that is mapped, bits of an entry."""
    values = integers(item, key, little_endian)
    if len(values) != 3:
        raise UserError(f"has a {name} whose descriptor has {len(values)} values, not 3: correct the file")
    return values[0] & 0xFFFF or 2**16, values[1], values[2] & 0xFFFF


def table_bytes(item: Dataset, key: str, little_endian: bool) -> bytes:
    """Read the data of a table as little-endian words, whatever type they were written with."""
    value: Any = item.get(key)
    if value is None:
        return b""
    if not isinstance(value, bytes):
        return (np.atleast_1d(np.asarray(value, dtype=np.int64)) & 0xFFFF).astype("<u2").tobytes()
    # Entries of 8 bits are stored in words too, the first in the low byte: in a big-endian file they must be swapped.
    if little_endian or item[key].VR == "OB" or len(value) % 2:
        return value
    return np.frombuffer(value, dtype=">u2").astype("<u2").tobytes()


def table_entries(data: bytes, count: int, bits: int, name: str) -> np.ndarray:
    """Divide the data of a table into its entries: words, or two entries in a word.

    Args:
        data: data as :func:`table_bytes` returns it.
        count: entries that the descriptor says.
        bits: number of bits of an entry that the descriptor says; it matters only where the length allows both.
        name: what the table is, for errors.

    Returns:
        int64 ``[count]``.

    Raises:
        UserError: if the length fits neither.
    """
    words, octets = len(data) == 2 * count, len(data) in (count, count + count % 2)
    if not (words or octets):
        raise UserError(f"has a {name} of {count} entries by its descriptor, but {len(data):,} bytes of data")
    if words and (bits > 8 or not octets):
        return np.frombuffer(data, dtype="<u2").astype(np.int64)
    return np.frombuffer(data, dtype=np.uint8)[:count].astype(np.int64)
