"""Whether a frame in RLE is whole: decoders fill up what is missing, or fail in a way that Python cannot catch."""

from __future__ import annotations

import struct

from medcap.errors import UserError

_HEADER_BYTES = 64
_NO_RUN = 128


def check_rle(data: bytes, segments: int, size: int) -> None:
    """Check that each segment makes just the bytes that it should (PS3.5, annex G).

    Args:
        data: the frame.
        segments: how many there must be: the bytes of a pixel.
        size: bytes that each makes.

    Raises:
        UserError: if it is cut off or contradicts its header.
    """
    found = struct.unpack("<I", data[:4])[0] if len(data) >= _HEADER_BYTES else 0
    if found != segments:
        raise UserError(f"is damaged: cut off: its RLE data have {found} segments, its header says {segments}")
    starts = struct.unpack(f"<{segments}I", data[4 : 4 + 4 * segments])
    for start, end in zip(starts, (*starts[1:], len(data)), strict=True):
        position, made = start, 0
        while made < size and position < end <= len(data):
            run = data[position]
            position += run + 2 if run < _NO_RUN else 2 if run > _NO_RUN else 1
            made += run + 1 if run < _NO_RUN else 257 - run if run > _NO_RUN else 0
        # A byte may be added, which makes the length even.
        if start < _HEADER_BYTES or made != size or not 0 <= end - position <= 1:
            raise UserError("is damaged: cut off: a segment of its RLE data has another size than its header says")
