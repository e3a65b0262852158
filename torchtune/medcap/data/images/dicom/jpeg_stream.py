"""What a JPEG or JPEG-LS stream says before it is decoded: its size, its colours, whether all of it is there.

Decoders fill up what is missing and say nothing. A stream is whole if it ends with its end marker, has all its scans
and restart intervals, and if no bits are missing inside: that is found by decoding it with bits added after each
interval. A decoder that has all the bits it needs never reads those, and the picture stays the same.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np

from medcap.errors import UserError

# ITU-T T.81, table B.1; ISO 14495-1, C.1.
_START, _END, _SCAN, _RESTART_INTERVAL = 0xD8, 0xD9, 0xDA, 0xDD
_APP0, _APP8, _APP14 = 0xE0, 0xE8, 0xEE
_BASELINE, _EXTENDED, _PROGRESSIVE, _LOSSLESS, _JPEG_LS = 0xC0, 0xC1, 0xC2, 0xC3, 0xF7
_OTHER_FRAMES = {0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_RESTARTS = range(0xD0, 0xD8)
# After a byte FF in coded data follows 00 in JPEG, or a byte below 80 in JPEG-LS; all else are markers.
_MARKER, _JPEG_LS_MARKER = re.compile(rb"\xff+[\x01-\xfe]"), re.compile(rb"\xff+[\x80-\xfe]")
_NO_TRANSFORM = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
_LEFT_OVER = 16  # bytes of coded data that an encoder may leave over
_ADDED_BITS = b"\xaa\x33\xcc\x55\x0f\x78\xb1\x66" * 8


@dataclass(frozen=True)
class _Component:
    number: int
    across: int  # sampling factors
    down: int


class JpegStream:
    """A stream of the JPEG family, read up to its end.

    Args:
        data: the stream; bytes after its end are ignored.

    Attributes:
        precision: bits of a sample.
        components: how many there are.

    Raises:
        UserError: if it is cut off, or of a kind that DICOM does not know.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._frame = 0
        self._width = self._height = self.precision = 0
        self._parts: list[_Component] = []
        self._interval = 0
        self._coded: list[tuple[int, int]] = []  # where coded data are: from their first byte to the marker after them
        self._colour_marks: list[tuple[int, int]] = []
        self._jfif = self._transformed = False
        self._adobe: int | None = None
        self._sent: dict[int, np.ndarray] = {}
        try:
            self._read()
        except (IndexError, struct.error):
            raise _cut_off("have no end") from None
        self.components = len(self._parts)

    @property
    def _is_jpeg_ls(self) -> bool:
        return self._frame == _JPEG_LS

    def is_rgb(self, said: bool) -> bool:
        """Find out whether three components are RGB or YCbCr.

        Args:
            said: whether the file's Photometric Interpretation says RGB; taken where the stream says nothing itself.

        Raises:
            UserError: if the stream contradicts itself, or uses a transform of colours that is not read.
        """
        if self._transformed:
            raise UserError("is a JPEG-LS with a transform of its colours, which is not read: convert it")
        halved = any((part.across, part.down) != (self._parts[0].across, self._parts[0].down) for part in self._parts)
        ycbcr = self._jfif or self._adobe == 1 or halved
        rgb = self._adobe == 0 or bytes(part.number for part in self._parts).upper() == b"RGB"
        if rgb and ycbcr:
            raise UserError("has JPEG data that say both RGB and YCbCr of its colours: convert it")
        return rgb or (said and not ycbcr)

    def plain(self) -> bytes:
        """Return the stream so that a decoder leaves its components as they are."""
        return self._edited(b"")

    def with_added_bits(self) -> bytes:
        """Return the same with bits added after all coded data: it decodes to the same if no bits were missing."""
        return self._edited(_ADDED_BITS)

    def with_changed_bits(self) -> bytes | None:
        """Return the same with some bits changed near the end of the longest coded data.

        It decodes to something else, unless the decoder has all its samples before it comes there: then bits were
        missing further up.

        Returns:
            The stream; None where coded data are too short to decide, and for the lossless process, which never makes
            more samples of fewer bits.
        """
        if self._frame == _LOSSLESS:
            return None
        start, end = max(self._coded, key=lambda span: span[1] - span[0])
        if end - start < 4 * _LEFT_OVER:
            return None
        position = end - _LEFT_OVER
        # No byte becomes FF, and none that only marks an FF as data changes.
        marks = [not self._is_jpeg_ls and self._data[position + number - 1] == 0xFF for number in range(4)]
        changed = bytes(
            byte if mark or byte == 0xD2 else byte ^ 0x2D
            for byte, mark in zip(self._data[position : position + 4], marks, strict=True)
        )
        same = changed == self._data[position : position + 4]
        return None if same else self._edited(b"", [(position, position + 4, changed)])

    def _edited(self, added: bytes, others: list[tuple[int, int, bytes]] | None = None) -> bytes:
        changes = [*(others or []), *((end, end, added) for _, end in self._coded if added)]
        if len(self._parts) == 3 and not self._is_jpeg_ls:
            changes += [(start, end, b"") for start, end in self._colour_marks] + [(2, 2, _NO_TRANSFORM)]
        parts, position = [], 0
        for start, end, inserted in sorted(changes):
            parts += [self._data[position:start], inserted]
            position = end
        return b"".join([*parts, self._data[position:]])

    def _read(self) -> None:
        data, position = self._data, 2
        while True:
            while data[position + 1] == 0xFF:
                position += 1
            if data[position] != 0xFF:
                raise _cut_off("are damaged inside")
            marker = data[position + 1]
            if marker == _END:
                break
            if marker == _START or marker in _RESTARTS:
                raise _cut_off("have no end")
            length = struct.unpack(">H", data[position + 2 : position + 4])[0]
            body = data[position + 4 : position + 2 + length]
            if len(body) != length - 2:
                raise _cut_off("have no end")
            self._read_segment(marker, body, (position, position + 2 + length))
            position += 2 + length
            if marker == _SCAN:
                position = self._pass_coded_data(position, body)
        if not self._parts or not self._is_sent():
            raise _cut_off("lack a scan")

    def _read_segment(self, marker: int, body: bytes, span: tuple[int, int]) -> None:
        if marker in (_BASELINE, _EXTENDED, _PROGRESSIVE, _LOSSLESS, _JPEG_LS):
            self._frame, self.precision = marker, body[0]
            self._height, self._width = struct.unpack(">HH", body[1:5])
            self._parts = [
                _Component(body[position], body[position + 1] >> 4 or 1, body[position + 1] & 15 or 1)
                for position in range(6, 6 + 3 * body[5], 3)
            ]
        elif marker in _OTHER_FRAMES:
            raise UserError(f"has JPEG data of a kind (SOF{marker - 0xC0}) that DICOM does not know: convert it")
        elif marker == _RESTART_INTERVAL:
            self._interval = int.from_bytes(body, "big")
        elif marker == _APP0 and body.startswith(b"JFIF"):
            self._jfif = True
            self._colour_marks.append(span)
        elif marker == _APP14 and body.startswith(b"Adobe"):
            self._adobe = body[11] if len(body) >= 12 else None
            self._colour_marks.append(span)
        elif marker == _APP8 and body.startswith(b"mrfx"):
            self._transformed = body[4:5] not in (b"", b"\0")

    def _pass_coded_data(self, position: int, header: bytes) -> int:
        """Note where the coded data of a scan end and return the position of the marker after them."""
        numbers = [header[1 + 2 * number] for number in range(header[0])]
        first, last, approximation = header[-3], header[-2], header[-1]
        for number in numbers:
            sent = self._sent.setdefault(number, np.full(64, 255))
            if self._frame == _PROGRESSIVE:
                sent[first : last + 1] = approximation & 15
            else:
                sent[:] = 0
        pattern = _JPEG_LS_MARKER if self._is_jpeg_ls else _MARKER
        restarts = 0
        while True:
            found = pattern.search(self._data, position)
            if found is None:
                raise _cut_off("have no end")
            self._coded.append((position, found.start()))
            marker, position = self._data[found.end() - 1], found.end()
            if marker not in _RESTARTS:
                break
            if marker - 0xD0 != restarts % 8:
                raise _cut_off("lack a part")
            restarts += 1
        if self._interval and not self._is_jpeg_ls and restarts != self._restarts(numbers):
            raise _cut_off("lack a part")
        return found.start()

    def _restarts(self, numbers: list[int]) -> int:
        """Return how many restart markers a scan of these components has (T.81, A.2)."""
        unit = 1 if self._frame == _LOSSLESS else 8
        across, down = (max(part.across for part in self._parts), max(part.down for part in self._parts))
        if len(numbers) == 1:
            part = next(part for part in self._parts if part.number == numbers[0])
            width = -(-self._width * part.across // across)
            height = -(-self._height * part.down // down)
            count = -(-width // unit) * -(-height // unit)
        else:
            count = -(-self._width // (unit * across)) * -(-self._height // (unit * down))
        return -(-count // self._interval) - 1

    def _is_sent(self) -> bool:
        return all(part.number in self._sent and not self._sent[part.number].any() for part in self._parts)


def _cut_off(reason: str) -> UserError:
    return UserError(f"is damaged: cut off: its JPEG data {reason}")
