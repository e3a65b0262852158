"""What a JPEG 2000 stream says before it is decoded: its samples, its colours, whether all of it is there."""

from __future__ import annotations

import struct

from medcap.errors import UserError

# ISO 15444-1, table A.2.
_CODESTREAM, _SIZES, _CODING, _TILE_PART, _END = b"\xff\x4f\xff\x51", 0xFF51, 0xFF52, 0xFF90, 0xFFD9


class Jpeg2000Stream:
    """A JPEG 2000 stream, read from part to part up to its end.

    Args:
        data: the stream, or a JP2 file that holds it; bytes after its end are ignored.

    Attributes:
        data: the stream without a container.
        precision: bits of a sample.
        signed: whether a sample has a sign.
        components: how many there are.
        transformed: whether it holds RGB that was transformed, which a decoder turns back.

    Raises:
        UserError: if it is cut off, or its components differ.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data[max(0, data.find(_CODESTREAM)) :]
        self.transformed = False
        try:
            self._tiles = self._read_sizes()
            self._read_parts(self._read_header())
        except (IndexError, struct.error):
            raise _cut_off() from None

    def _read_sizes(self) -> int:
        """Read the components; returns how many tiles there are (A.5.1)."""
        right, bottom, _, _, width, height, left, top = struct.unpack(">8I", self.data[8:40])
        self.components = struct.unpack(">H", self.data[40:42])[0]
        kinds = {self.data[position : position + 3] for position in range(42, 42 + 3 * self.components, 3)}
        if len(kinds) != 1 or next(iter(kinds))[1:] != b"\1\1":
            raise UserError("has JPEG 2000 data whose components differ in bits or size: convert it")
        self.precision, self.signed = (self.data[42] & 0x7F) + 1, bool(self.data[42] & 0x80)
        if not width or not height:
            raise _cut_off()
        return -(-(right - left) // width) * -(-(bottom - top) // height)

    def _read_header(self) -> int:
        """Read the main header; returns the place of the first tile's first part."""
        position = 2
        while (marker := self._word(position)) != _TILE_PART:
            if marker == _CODING:
                self.transformed = self.data[position + 8] == 1
            if marker < 0xFF00 or marker == _END:
                raise _cut_off()
            position += 2 + self._word(position + 2)
        return position

    def _read_parts(self, position: int) -> None:
        found: dict[int, int] = {}
        wanted: dict[int, int] = {}
        while self._word(position) == _TILE_PART:
            tile, length, _, parts = struct.unpack(">HIBB", self.data[position + 4 : position + 12])
            found[tile] = found.get(tile, 0) + 1
            if parts:
                wanted[tile] = parts
            # A length of 0 means up to the end.
            position = position + length if length else self.data.rfind(b"\xff\xd9")
            if length and length < 14:
                raise _cut_off()
        complete = len(found) == self._tiles and all(found[tile] >= parts for tile, parts in wanted.items())
        if self._word(position) != _END or not complete:
            raise _cut_off()

    def _word(self, position: int) -> int:
        return struct.unpack(">H", self.data[position : position + 2])[0]


def _cut_off() -> UserError:
    return UserError("is damaged: cut off: its JPEG 2000 data have no end, or lack a part")
