"""PNG files: damaged ones are refused, long texts lose no picture, and 16-bit samples keep both bytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from medcap.data.images.orientation import orientation_of, turn
from medcap.data.images.pixel_samples import PixelSamples, to_picture
from medcap.data.images.views import View
from medcap.errors import UserError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The chunks that make the picture and its orientation; a text chunk is kept only if it holds the orientation. Pillow
# refuses a picture for long texts and colour profiles (https://github.com/python-pillow/Pillow/issues/8363), which are
# not used.
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_UNCHECKED = (*_TEXTS, b"iCCP", b"eXIf")
_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"exif\0")
_MAX_TEXT = 2**20  # bytes that Pillow inflates of a text
_LA, _RGB, _RGBA = 4, 2, 6  # colour types


def without_extras(file: BinaryIO, whole: bool) -> BinaryIO:
    """Copy the chunks that make the picture, and check them.

    Args:
        file: file, positioned at its beginning.
        whole: False to read up to the pixels only.

    Returns:
        A PNG file in memory.

    Raises:
        UserError: if a checksum is wrong: Pillow does not look at those of the pixels.
    """
    data = file.read() if whole else _head(file)
    view = memoryview(data)
    kept, begin = [], 0  # ``begin``: of what is kept next
    for kind, start, end in _chunks(data):
        if kind not in _UNCHECKED and zlib.crc32(view[start + 4 : end - 4]) != _number(data, end - 4):
            raise UserError(f"is damaged: the checksum of its chunk {kind.decode('latin-1')!a} is wrong")
        if kind not in _KEPT and not _tells_orientation(kind, data[start + 8 : end - 4]):
            kept.append(view[begin:start])
            begin = end
    # The rest may end in a chunk that is cut off, which Pillow finds, or in the beginning of the pixels.
    return io.BytesIO(b"".join([*kept, view[begin:]]) if kept else data)


class SixteenBitPng:
    """A picture with 16-bit samples, of which Pillow keeps only the upper byte where a pixel has several.

    Args:
        image: image as Pillow opened it.
        file: what :func:`without_extras` returned.

    Attributes:
        format: ``PNG``.
        frames: 1.
        size: width and height, not turned.
    """

    format = "PNG"
    frames = 1

    def __init__(self, image: Image.Image, file: BinaryIO) -> None:
        self._image, self._file = image, file
        self.size = image.size

    def pictures(self, view: View) -> Iterator[tuple[int, Image.Image]]:
        """Decode the picture.

        Args:
            view: its window, in stored values.

        Yields:
            0 and the upright picture, mode L or RGB.

        Raises:
            Exception: whatever Pillow raises for a damaged file.
        """
        picture = to_picture(self.samples(), view)
        yield 0, turn(picture, self.orientation)

    @property
    def orientation(self) -> int:
        """How the picture is stored, 1 to 8."""
        return orientation_of(self._image)

    def samples(self) -> PixelSamples:
        """Decode the samples, not turned; raises whatever Pillow raises for a damaged file."""
        self._image.load()
        self._file.seek(0)
        data = self._file.read()
        parts = {kind: data[start + 8 : end - 4] for kind, start, end in _chunks(data) if kind in (b"IHDR", b"tRNS")}
        pixels = b"".join(data[start + 8 : end - 4] for kind, start, end in _chunks(data) if kind == b"IDAT")
        colour_type, interlace = parts[b"IHDR"][9], parts[b"IHDR"][12]

        def decode(mode: str, raw_mode: str) -> np.ndarray:
            return np.asarray(Image.frombytes(mode, self.size, pixels, "zip", raw_mode, int(interlace > 0)))

        if colour_type in (_RGB, _RGBA):
            mode = "RGB" if colour_type == _RGB else "RGBA"
            # Pillow has no mode for them: decode the upper bytes, then the lower ones, by exchanging the byte order.
            values = decode(mode, f"{mode};16B").astype(np.uint16) << 8 | decode(mode, f"{mode};16L")
        elif colour_type == _LA:
            values = decode("RGBA", "RGBA").view(">u2").astype(np.uint16)  # four bytes a pixel, unchanged
        else:
            values = decode("I;16", "I;16B")[..., None]
        if colour_type in (_LA, _RGBA):
            return PixelSamples(values[..., :-1], values[..., -1] / 65535)
        key = parts.get(b"tRNS", b"")
        if len(key) < 2 * values.shape[2]:
            return PixelSamples(values)
        transparent = (values == np.frombuffer(key, ">u2", values.shape[2])).all(axis=2)
        if transparent.all():  # one colour, and that transparent: white, as with 8 bits
            return PixelSamples(np.full(values.shape, 255, np.uint8), full=255)
        return PixelSamples(values, 1.0 - transparent)


def orientation_in(file: BinaryIO) -> int:
    """Read the orientation of a PNG file; it may be told after the pixels, which are not read.

    Args:
        file: any position; the position changes.

    Returns:
        1 to 8, as :func:`medcap.data.images.orientation.orientation_of` finds it in the decoded picture.
    """
    file.seek(len(SIGNATURE))
    told = []
    while len(start := file.read(8)) == 8 and start[4:] != b"IEND":
        kind, length = start[4:], _number(start, 0)
        if kind != b"eXIf" and kind not in _TEXTS:
            file.seek(length + 4, io.SEEK_CUR)
            continue
        content = file.read(length)
        file.seek(4, io.SEEK_CUR)
        if kind == b"eXIf" or _tells_orientation(kind, content):
            told.append(_chunk(kind, content))
    if not told:
        return 1
    # One grey pixel with the same metadata, so that Pillow itself reads them.
    pixel = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)), _chunk(b"IDAT", zlib.compress(b"\0\0"))
    with Image.open(io.BytesIO(b"".join([SIGNATURE, pixel[0], *told, pixel[1], _chunk(b"IEND", b"")]))) as image:
        return orientation_of(image)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def has_sixteen_bits(file: BinaryIO) -> bool:
    """Return whether a PNG file has 16 bits a sample; the position in the file does not change."""
    return _bits_and_type(file)[0] == 16


def scale_colour_key(image: Image.Image, file: BinaryIO) -> None:
    """Bring the transparent grey of a 2-bit or 4-bit picture to the 8 bits to which Pillow converts its pixels."""
    bits, colour_type = _bits_and_type(file)
    if colour_type == 0 and bits in (2, 4) and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2**bits - 1)


def grey_bits(file: BinaryIO) -> int:
    """Return the bits of a grey of a PNG file; 0 for other colour types. The position in the file does not change."""
    bits, colour_type = _bits_and_type(file)
    return bits if colour_type == 0 else 0


def _bits_and_type(file: BinaryIO) -> tuple[int, int]:
    position = file.tell()
    file.seek(len(SIGNATURE) + 16)
    found = file.read(2)
    file.seek(position)
    return found[0], found[1]


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of every whole chunk up to the last, and where it begins and ends."""
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        end = start + 12 + _number(data, start)
        if end > len(data):
            return
        kind = data[start + 4 : start + 8]
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end


def _head(file: BinaryIO) -> bytes:
    """All chunks before the pixels, and the first eight bytes of those."""
    parts = [file.read(len(SIGNATURE))]
    while True:
        parts.append(file.read(8))
        if len(parts[-1]) < 8 or parts[-1][4:] == b"IDAT":
            return b"".join(parts)
        parts.append(file.read(_number(parts[-1], 0) + 4))


def _tells_orientation(kind: bytes, content: bytes) -> bool:
    """Return whether a text may hold the orientation, and Pillow takes it."""
    if kind not in _TEXTS or not content.startswith(_ORIENTATION):
        return False
    text = content.partition(b"\0")[2]
    if kind == b"tEXt" or (kind == b"iTXt" and text[:1] == b"\0"):
        return len(text) <= _MAX_TEXT
    if kind == b"zTXt" and text[:1] != b"\0":
        return False  # another compression than the only one there is
    text = text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1]
    try:
        return len(zlib.decompressobj().decompress(text, _MAX_TEXT + 1)) <= _MAX_TEXT
    except zlib.error:
        return False


def _number(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 4], "big")
