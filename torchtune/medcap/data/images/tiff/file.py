"""TIFF files that Pillow misreads or does not read: more than 8 bits, signed, float, with extra samples.

The terms are those of TIFF 6.0 (https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from medcap.data.images.orientation import turn
from medcap.data.images.pixel_samples import PixelSamples, check_pixels, to_picture
from medcap.data.images.tiff import tags as tag
from medcap.data.images.tiff.parts import COMPRESSIONS, Encoding, decode_part, unread
from medcap.data.images.tiff.tags import Tags
from medcap.data.images.views import View
from medcap.errors import UserError

MAX_BYTES = 2 * 2**30  # in memory, of all samples
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, SEPARATED: 4, YCBCR: 3}
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # 4: the writer does not know; to be read as unsigned
_ASSOCIATED, _UNASSOCIATED, _COREL_DRAW = 1, 2, 999
_ALPHAS = (_ASSOCIATED, _UNASSOCIATED, _COREL_DRAW)
_CMYK = 1  # ink set


def needs_samples(tags: Tags) -> bool:
    """Return whether Pillow cannot read a file, or misreads it, so that ``TiffFile`` must read it."""
    bits = set(tags.values.get(tag.BITS, (1,)))
    photometric = tags.one(tag.PHOTOMETRIC, WHITE_IS_ZERO)
    usual = {8} if photometric in (RGB, SEPARATED) else {1, 2, 4, 8}
    if bits - usual or set(tags.values.get(tag.SAMPLE_FORMAT, (1,))) != {1}:
        return True
    compression = tags.one(tag.COMPRESSION, 1)
    if photometric == YCBCR and compression == 1:
        return True
    extra = tag.EXTRA_SAMPLES in tags.values and photometric not in (PALETTE, YCBCR)
    return (extra or (tags.big and tags.order == ">")) and compression in COMPRESSIONS


def check_kind(tags: Tags) -> None:
    """Refuse what would come out in wrong colours.

    Raises:
        UserError: for other colour models than grey, RGB, palette, CMYK and YCbCr.
    """
    photometric = tags.one(tag.PHOTOMETRIC, WHITE_IS_ZERO)
    if photometric not in (*_COLOURS, PALETTE):
        raise unread(f"the photometric interpretation {photometric}")
    if photometric == SEPARATED and tags.one(tag.INK_SET, _CMYK) != _CMYK:
        raise unread("other inks than CMYK")
    if photometric == PALETTE and tag.COLOUR_MAP not in tags.values:
        raise UserError("is damaged: its colour map is missing")


class TiffFile:
    """The first picture of a TIFF file, read sample by sample.

    Args:
        file: the whole file.
        tags: tags of its first directory.
        max_pixels: width x height above which it is refused.

    Attributes:
        format: ``TIFF``.
        frames: 1.
        size: width and height, not turned.

    Raises:
        UserError: if the file is too large, damaged, or of a kind that is not read.
    """

    format = "TIFF"
    frames = 1

    def __init__(self, file: BinaryIO, tags: Tags, max_pixels: int) -> None:
        self._file, self._tags, self._max_pixels = file, tags, max_pixels
        width, height = self.size = tags.one(tag.WIDTH, 0), tags.one(tag.LENGTH, 0)
        if not width or not height:
            raise UserError("is damaged: it has no width or no height")
        check_pixels(self.size, max_pixels)
        self._photometric = tags.one(tag.PHOTOMETRIC, WHITE_IS_ZERO)
        self._samples = tags.one(tag.SAMPLES, 1)
        self._planar = tags.one(tag.PLANAR, 1) == 2
        bits = set(tags.values.get(tag.BITS, (1,))[: self._samples])
        formats = set(tags.values.get(tag.SAMPLE_FORMAT, (1,))[: self._samples])
        if len(bits) > 1 or len(formats) > 1:
            raise unread("samples of different bits or formats")
        self._encoding = Encoding(
            tags.order,
            _KINDS.get(formats.pop(), ""),
            bits.pop(),
            tags.one(tag.COMPRESSION, 1),
            tags.one(tag.PREDICTOR, 1),
            tags.one(tag.FILL_ORDER, 1) == 2,
        )
        self._check_colours()
        self._extra = self._extra_samples()
        if width * height * self._samples * self._encoding.dtype.itemsize > MAX_BYTES:
            raise UserError(f"has {self._samples} samples a pixel, together more than the {MAX_BYTES:,} bytes allowed")

    @property
    def orientation(self) -> int:
        """How the picture is stored, 1 to 8; others mean nothing."""
        return self._tags.one(tag.ORIENTATION, 1)

    def pictures(self, view: View) -> Iterator[tuple[int, Image.Image]]:
        """Decode the picture.

        Args:
            view: its window, in stored values.

        Yields:
            0 and the upright picture, mode L or RGB.

        Raises:
            UserError: if the file is damaged.
        """
        if self._photometric == YCBCR:
            yield 0, self._turned(self._read_ycbcr())
            return
        values, kind = self.samples(), self._encoding.kind
        count = _COLOURS[self._photometric]
        full = 2**self._encoding.bits - 1
        colours, alpha = values[..., :count], None
        position = next((index for index, meaning in enumerate(self._extra) if meaning in _ALPHAS), None)
        if position is not None:
            alpha = values[..., count + position].astype(np.float64) / (1 if kind == "f" else full)
            alpha = np.clip(np.nan_to_num(alpha), 0, 1)
        absolute = kind == "u" and full <= 255
        if self._photometric == SEPARATED:
            paper = full - colours.astype(np.float64)
            colours = paper[..., :3] * paper[..., 3:] / full  # RGB on the scale of the inks
            colours = np.round(colours) if absolute else colours
        samples = PixelSamples(
            colours,
            alpha,
            full if absolute else None,
            self._photometric == WHITE_IS_ZERO,
            position is not None and self._extra[position] == _ASSOCIATED,
        )
        yield 0, self._turned(to_picture(samples, view))

    def _turned(self, picture: Image.Image) -> Image.Image:
        return turn(picture, self.orientation)

    def _read_ycbcr(self) -> Image.Image:
        """Decode with libtiff, which knows subsampling: Pillow takes uncompressed ones for four bytes a pixel."""
        self._file.seek(0)
        options = ("libtiff", "RGBX", "raw", False, self._tags.position)
        return Image.frombytes("RGB", self.size, self._file.read(), *options)

    def _check_colours(self) -> None:
        kind, bits = self._encoding.kind, self._encoding.bits
        possible = {SEPARATED: kind == "u", YCBCR: kind == "u" and bits == 8, PALETTE: False}
        if not possible.get(self._photometric, True):
            raise unread(f"{bits} bits a sample and the photometric interpretation {self._photometric}")

    def _extra_samples(self) -> tuple[int, ...]:
        """Return what each sample after the colours is: a kind of alpha, or something to leave out."""
        count = self._samples - _COLOURS[self._photometric]
        extra = self._tags.values.get(tag.EXTRA_SAMPLES, ())
        if not extra and count == 1 and self._photometric == RGB:
            return (_UNASSOCIATED,)  # some writers leave the tag out
        if len(extra) != count:
            raise UserError(
                f"is a TIFF file of {self._samples} samples a pixel, {len(extra)} of them extra, which does not fit the"
                f" photometric interpretation {self._photometric}: save it as grey or RGB"
            )
        if self._encoding.kind == "i" and not set(extra).isdisjoint(_ALPHAS):
            raise unread("alpha with a sign")
        return extra

    def samples(self) -> np.ndarray:
        """Return all samples as stored, ``[height, width, samples]``, not turned."""
        width, height = self.size
        tiled = tag.TILE_OFFSETS in self._tags.values
        if tiled:
            across, down = self._tags.one(tag.TILE_WIDTH, 0), self._tags.one(tag.TILE_LENGTH, 0)
        else:
            across, down = width, min(self._tags.one(tag.ROWS_PER_STRIP, height), height)
        if not across or not down or across * down > self._max_pixels:
            raise UserError(f"is damaged: it has parts of {across} x {down} pixels")
        in_row = -(-width // across)
        in_plane = in_row * -(-height // down)
        parts = in_plane * (self._samples if self._planar else 1)
        offsets = self._tags.values.get(tag.TILE_OFFSETS if tiled else tag.STRIP_OFFSETS, ())
        sizes = self._tags.values.get(tag.TILE_BYTES if tiled else tag.STRIP_BYTES, (-1,) * len(offsets))
        if len(offsets) < parts or len(sizes) < parts:
            raise UserError(f"is damaged: it has {min(len(offsets), len(sizes))} of {parts} strips or tiles")
        values = np.empty((height, width, self._samples), self._encoding.dtype)
        for number in range(parts):
            plane, index = divmod(number, in_plane)
            y, x = index // in_row * down, index % in_row * across
            rows = down if tiled else min(down, height - y)
            data = self._bytes(offsets[number], sizes[number])
            part = decode_part(data, self._encoding, rows, across, 1 if self._planar else self._samples)
            position = slice(plane, plane + 1) if self._planar else slice(None)
            values[y : y + rows, x : x + across, position] = part[: height - y, : width - x]
        return values

    def _bytes(self, offset: int, size: int) -> bytes:
        """Return a strip or a tile as it is in the file; everything from there on if its size is not given."""
        self._file.seek(offset)
        data = self._file.read(size)
        if not data or len(data) < size:
            raise UserError("is damaged: cut off")
        return data
