"""A small encoder of lossless JPEG (ITU-T T.81, process 14, first-order prediction), as Pillow has none."""

from __future__ import annotations

import struct

import numpy as np

_CATEGORIES = 17  # of differences, by their number of bits; all have codes of 5 bits


def encode_lossless(
    samples: np.ndarray, precision: int, restart_rows: int = 0, numbers: bytes = b"\1\2\3", markers: bytes = b""
) -> bytes:
    """Encode greys or interleaved colours without loss.

    Args:
        samples: unsigned ``[rows, columns]`` or ``[rows, columns, components]``, below ``2**precision``.
        precision: 2 to 16 bits.
        restart_rows: rows between restart markers, 0 for none.
        numbers: component numbers.
        markers: segments to put after the start marker.
    """
    planes = samples[..., None] if samples.ndim == 2 else samples
    rows, columns, components = planes.shape
    planes = planes.astype(np.int64)
    first_rows = set(range(0, rows, restart_rows)) if restart_rows else {0}
    differences = np.empty_like(planes)
    differences[:, 1:] = planes[:, 1:] - planes[:, :-1]
    for row in range(rows):
        start = 2 ** (precision - 1) if row in first_rows else planes[row - 1, 0]
        differences[row, 0] = planes[row, 0] - start
    differences = (differences + 2**15) % 2**16 - 2**15

    frame = struct.pack(">BHHB", precision, rows, columns, components)
    frame += b"".join(struct.pack("BBB", number, 0x11, 0) for number in numbers[:components])
    codes = b"\0" + bytes([0, 0, 0, 0, _CATEGORIES, *[0] * 11]) + bytes(range(_CATEGORIES))
    scan = bytes([components, *(byte for number in numbers[:components] for byte in (number, 0)), 1, 0, 0])
    parts = [b"\xff\xd8", markers, _segment(0xC3, frame), _segment(0xC4, codes)]
    if restart_rows:
        parts.append(_segment(0xDD, struct.pack(">H", restart_rows * columns)))
    parts.append(_segment(0xDA, scan))
    step = restart_rows or rows
    for number, row in enumerate(range(0, rows, step)):
        if number:
            parts.append(bytes([0xFF, 0xD0 + (number - 1) % 8]))
        parts.append(_coded(differences[row : row + step].ravel()))
    return b"".join([*parts, b"\xff\xd9"])


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def _coded(differences: np.ndarray) -> bytes:
    bits = []
    for difference in differences.tolist():
        category = abs(difference).bit_length()
        bits.append(f"{category:05b}")
        if 0 < category < 16:
            bits.append(f"{difference if difference > 0 else difference + 2**category - 1:0{category}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return bytes(int(text[position : position + 8], 2) for position in range(0, len(text), 8)).replace(
        b"\xff", b"\xff\0"
    )
