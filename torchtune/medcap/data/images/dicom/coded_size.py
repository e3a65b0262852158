"""The size that a compressed JPEG, JPEG-LS or JPEG 2000 stream will decode to, read from its header."""

from __future__ import annotations

import struct

_JPEG_START, _J2K_START, _BOX_START = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "
# ITU-T T.81, table B.1: start of frame, without DHT (C4), JPG (C8) and DAC (CC); ISO 14495-1: F7 of JPEG-LS.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


def coded_size(data: bytes) -> tuple[int, int] | None:
    """Width and height, or None if the stream is of another kind or ends before it says them.

    Args:
        data: one whole stream; a JPEG 2000 one may be in the boxes of a JP2 file.
    """
    if data.startswith(_JPEG_START):
        return _jpeg_size(data)
    if data.startswith(_BOX_START):
        data = data[max(0, data.find(_J2K_START)) :]
    if data.startswith(_J2K_START) and len(data) >= 24:
        # ISO 15444-1, A.5.1: SIZ holds its length, capabilities, then the grid's size and the image's offset in it.
        width, height, left, top = struct.unpack(">4I", data[8:24])
        return (width - left, height - top) if width > left and height > top else None
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
        elif marker in _FRAME_MARKERS:
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return (width, height) if width and height else None
        else:
            position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
    return None
