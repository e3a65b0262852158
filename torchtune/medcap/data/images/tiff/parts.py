"""Strips and tiles of TIFF files: bytes of the file -> samples."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from medcap.data.images.tiff import tags as tag
from medcap.errors import UserError

NONE, LZW, DEFLATE, PACK_BITS, OLD_DEFLATE, LZMA, ZSTD = 1, 5, 8, 32773, 32946, 34925, 50000
COMPRESSIONS = (NONE, LZW, DEFLATE, PACK_BITS, OLD_DEFLATE, LZMA, ZSTD)
_WITH_PREDICTOR = (LZW, DEFLATE, OLD_DEFLATE, LZMA, ZSTD)
_DIFFERENCES, _FLOAT_DIFFERENCES = 2, 3
_WHOLE_BYTES = (8, 16, 32, 64)
_UNPACKED = 2**20  # packed samples that are unpacked at a time: each takes a byte for every bit
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


@dataclass(frozen=True)
class Encoding:
    """How the samples of a file are stored.

    Attributes:
        order: byte order, ``<`` or ``>``.
        kind: ``u``, ``i`` or ``f``.
        bits: number of bits of a sample.
        compression: one of ``COMPRESSIONS``.
        predictor: 1 none, 2 differences, 3 differences of the bytes of floats.
        reversed_bits: whether the lowest bit of a byte comes first.

    Raises:
        UserError: if no file is read that is stored so.
    """

    order: Literal["<", ">"]
    kind: str
    bits: int
    compression: int
    predictor: int
    reversed_bits: bool

    def __post_init__(self) -> None:
        sizes = _WHOLE_BYTES[1:] if self.kind == "f" else (*range(1, 17), *_WHOLE_BYTES)
        if self.kind not in ("u", "i", "f") or self.bits not in sizes:
            raise unread(f"{self.bits} bits a sample and the sample format {self.kind or 'complex'}")
        if self.compression not in COMPRESSIONS:
            raise unread(f"{self.bits} bits a sample and the compression {self.compression}")
        if self.differs and not (
            (self.predictor == _DIFFERENCES and self.kind != "f" and self.bits in _WHOLE_BYTES)
            or (self.predictor == _FLOAT_DIFFERENCES and self.kind == "f")
        ):
            raise unread(f"{self.bits} bits a sample and the predictor {self.predictor}")

    @property
    def differs(self) -> bool:
        """Whether differences are stored; other compressions ignore the predictor."""
        return self.predictor != 1 and self.compression in _WITH_PREDICTOR

    @property
    def dtype(self) -> np.dtype:
        """The type of a sample in the byte order of this machine."""
        return np.dtype(f"={self.kind}{next(size for size in _WHOLE_BYTES if size >= self.bits) // 8}")


def unread(what: str) -> UserError:
    """Return the refusal of a valid file."""
    return UserError(f"is a TIFF file of {what}, which is not read: save it as 8-bit or 16-bit grey or RGB")


def decode_part(data: bytes, encoding: Encoding, rows: int, columns: int, samples: int) -> np.ndarray:
    """Decode a strip or a tile.

    Args:
        data: data as it is in the file.
        encoding: encoding of the file.
        rows: rows of the part.
        columns: columns of the part.
        samples: number of samples of a pixel, 1 where each plane has parts of its own.

    Returns:
        ``[rows, columns, samples]``, type ``encoding.dtype``.

    Raises:
        UserError: if it is cut off.
        ValueError: if it is damaged.
    """
    if encoding.reversed_bits:
        data = data.translate(_REVERSED)
    count = columns * samples
    per_row = (count * encoding.bits + 7) // 8
    stored = _decompress(data, encoding.compression, rows, per_row)  # [rows, per_row]
    if encoding.bits not in _WHOLE_BYTES:
        return _unpack(stored, encoding, count).reshape(rows, columns, samples)
    if encoding.differs and encoding.predictor == _FLOAT_DIFFERENCES:
        return _undo_float_differences(stored, encoding, samples).reshape(rows, columns, samples)
    values = stored.view(encoding.dtype.newbyteorder(encoding.order)).reshape(rows, columns, samples)
    values = values.astype(encoding.dtype, copy=False)
    # The sums wrap, as the differences do.
    return np.cumsum(values, axis=1, dtype=values.dtype) if encoding.differs else values


def _decompress(data: bytes, compression: int, rows: int, per_row: int) -> np.ndarray:
    """Return the bytes of a part: uint8 ``[rows, per_row]``."""
    size = rows * per_row
    if compression in (DEFLATE, OLD_DEFLATE):
        data = zlib.decompressobj().decompress(data, size + 1)  # One more, so that the checksum is verified.
    elif compression != NONE:
        # libtiff, which comes with Pillow: as if this were a file of one strip of 8-bit grey.
        strip, position = _strip_file(data, compression, rows, per_row)
        return np.asarray(Image.frombytes("L", (per_row, rows), strip, "libtiff", "L", "", False, position))
    if len(data) < size:
        raise UserError("is damaged: cut off")
    return np.frombuffer(data, np.uint8, size).reshape(rows, per_row)


def _strip_file(data: bytes, compression: int, rows: int, per_row: int) -> tuple[bytes, int]:
    """Return a TIFF file of one strip, and where its directory begins."""
    values = {
        tag.WIDTH: per_row,
        tag.LENGTH: rows,
        tag.BITS: 8,
        tag.COMPRESSION: compression,
        tag.PHOTOMETRIC: 1,
        tag.STRIP_OFFSETS: 0,
        tag.SAMPLES: 1,
        tag.ROWS_PER_STRIP: rows,
        tag.STRIP_BYTES: len(data),
    }
    position = 8
    values[tag.STRIP_OFFSETS] = position + 2 + 12 * len(values) + 4
    entries = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in values.items())
    return b"II*\0" + struct.pack("<IH", position, len(values)) + entries + bytes(4) + data, position


def _unpack(packed: np.ndarray, encoding: Encoding, count: int) -> np.ndarray:
    """Unpack samples that share bytes, the highest bit first: ``[rows, bytes]`` -> ``[rows, count]``."""
    values = np.empty((len(packed), count), encoding.dtype)
    weights = 1 << np.arange(encoding.bits - 1, -1, -1, dtype=np.uint16)
    step = max(1, _UNPACKED // count)
    for start in range(0, len(packed), step):
        bits = np.unpackbits(packed[start : start + step], axis=1, count=count * encoding.bits)
        values[start : start + step] = bits.reshape(-1, count, encoding.bits) @ weights
    if encoding.kind == "i":
        sign = 1 << (encoding.bits - 1)
        values = (values ^ sign) - sign
    return values


def _undo_float_differences(stored: np.ndarray, encoding: Encoding, samples: int) -> np.ndarray:
    """Adobe's TIFF Technical Note 3: differences of bytes, all the highest bytes of a row first, in any byte order."""
    rows, size = len(stored), encoding.bits // 8
    planes = np.cumsum(stored.reshape(rows, -1, samples), axis=1, dtype=np.uint8).reshape(rows, size, -1)
    values = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">f{size}")  # [rows, samples of a row, 1]
    return values.astype(encoding.dtype)
