"""DICOM files: opened, checked by their header, turned into pictures.

pydicom reads and decodes; it is imported when the first DICOM file is opened.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from medcap.data.images.dicom.colours import colour_levels
from medcap.data.images.dicom.elements import frame_item, numbers
from medcap.data.images.dicom.frames import read_frame
from medcap.data.images.dicom.greys import Greys, Transform, grey_display, grey_levels, grey_values
from medcap.data.images.dicom.layout import GREY, PALETTE, check_layout
from medcap.data.images.dicom.palette import palette_colours
from medcap.data.images.dicom.stack import SliceHeader, slice_header
from medcap.data.images.frame_choice import choose_frames
from medcap.data.images.views import View, square_pixels, square_size
from medcap.errors import TooManyPixelsError, UserError, ViewError

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_VOLUME_PIXELS = 1_000_000_000  # for all frames together; only the frames that are requested are ever decoded
START_BYTES = 132
_PREFIX = b"DICM"
_FIRST_GROUPS = (0x0002, 0x0008)
# PS3.6: deflated explicit, implicit, explicit little and explicit big endian.
_DEFLATED, _IMPLICIT, _LITTLE, _BIG = (f"1.2.840.10008.1.2{end}" for end in (".1.99", "", ".1", ".2"))


def has_preamble(start: bytes) -> bool:
    """Return whether a file is DICOM in the sense of PS3.10, by its first ``START_BYTES`` bytes."""
    return start[128:132] == _PREFIX


def is_bare(start: bytes) -> bool:
    """Return whether a file may be DICOM without a preamble: it begins with an element of group 2 or 8.

    An element is its number, then its type or its length. Ask this last: the pattern is weaker than that of any other
    format.
    """
    if len(start) < 12:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", start[:4])
        if group not in _FIRST_GROUPS or element > 0x0070:
            continue
        typed = start[4:6] in (b"UL", b"UI", b"CS", b"DA", b"OB", b"SH", b"LO", b"ST", b"TM", b"DT")
        if typed or (order == "<" and struct.unpack("<I", start[4:8])[0] <= 256):
            return True
    return False


class DicomFile:
    """One DICOM file with pixels.

    Args:
        file: file, positioned at its beginning.
        start: its first ``START_BYTES`` bytes.
        max_pixels: rows x columns above which it is refused.
        max_bytes: what a deflated file may hold when inflated.
        header_only: read nothing after the header; no picture can be decoded then.

    Attributes:
        format: ``DICOM``.
        frames: how many there are.

    Raises:
        UserError: if pydicom is not installed, there are no pixels, there are too many, or nothing can decode them.
    """

    format = "DICOM"

    def __init__(
        self, file: BinaryIO, start: bytes, max_pixels: int, max_bytes: int, header_only: bool = False
    ) -> None:
        try:
            from pydicom import dcmread
        except ImportError:
            raise UserError("is a DICOM file: reading it needs pydicom, pip install 'medcap[dicom]'") from None
        bare = not has_preamble(start)
        self.max_pixels = max_pixels
        _check_deflated(file, bare, max_bytes)
        self._dataset = dcmread(file, force=bare, stop_before_pixels=header_only)
        self._syntax = _transfer_syntax(self._dataset)
        self.frames = self._check()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return int(self._dataset.Columns), int(self._dataset.Rows)

    def pictures(self, view: View) -> Iterator[tuple[int, Image.Image]]:
        """Decode frames, one after the other.

        Args:
            view: which frame or slice, and which range of values.

        Yields:
            The frame's number from 0, and the picture: mode L or RGB.

        Raises:
            UserError: if there is no such frame or window. Also whatever pydicom and its decoders raise: what a damaged
                file makes them raise cannot be foreseen.
        """
        for frame in choose_frames(view.frames, self.count(view.axis)):
            yield frame, self._picture(frame, view)

    def count(self, axis: str) -> int:
        """Return the number of frames, whatever the axis: they are taken as they are stored.

        Raises:
            ViewError: if the frames are slices of a volume, and another axis is asked for.
        """
        places = "PlanePositionSequence"
        if axis != "axial" and self.frames > 1 and frame_item(self._dataset, 0, places) is not self._dataset:
            raise ViewError(f"is one file of {self.frames} slices, which are shown as stored: it has no {axis} ones")
        return self.frames

    def slice_header(self, name: str) -> SliceHeader:
        """Read where the file's slice is in its series."""
        return slice_header(name, self._dataset, self.frames)

    def greys(self, number: int = 0) -> Greys:
        """Decode a grey frame to units of the modality.

        Raises:
            UserError: if it cannot be read. Also whatever pydicom and its decoders raise.
        """
        frame = read_frame(self._dataset, self._syntax, self.frames, number)
        return grey_values(frame, number, self._dataset, self._syntax.is_little_endian)

    def display(self, view: View) -> Transform | None:
        """Return the window or VOI LUT of the first frame; see :func:`grey_display`."""
        return grey_display(0, self._dataset, self._syntax.is_little_endian, view)

    def shown_size(self, view: View) -> tuple[int, int]:
        """Return width and height of the first picture that :meth:`pictures` would decode."""
        frame = choose_frames(view.frames, self.frames)[0]
        return square_size(self.size, *self._spacing(frame), self.max_pixels)

    def _check(self) -> int:
        from pydicom.pixels.decoders.base import get_decoder

        dataset = self._dataset
        rows, columns = (_whole_number(dataset, key, 0) for key in ("Rows", "Columns"))
        if rows < 1 or columns < 1:
            kind = f" ({dataset.SOPClassUID.name})" if dataset.get("SOPClassUID") else "; is it cut off?"
            raise UserError(f"is a DICOM file without pixels{kind}")
        frames = _whole_number(dataset, "NumberOfFrames", 1)
        if frames < 1:
            raise UserError(f"says that it has {frames} frames")
        if "NumberOfFrames" in dataset:
            dataset.NumberOfFrames = frames  # pydicom's decoders fail on blanks
        if dataset.get("SamplesPerPixel", 1) not in (1, 3):
            raise UserError(f"has {dataset.SamplesPerPixel} samples a pixel: only 1 and 3 are read")
        if rows * columns > self.max_pixels:
            raise TooManyPixelsError(f"is {columns} x {rows}, more than the {self.max_pixels:,} pixels allowed")
        if rows * columns * frames > MAX_VOLUME_PIXELS:
            raise UserError(
                f"is {columns} x {rows} x {frames} frames, more than the {MAX_VOLUME_PIXELS:,} pixels allowed:"
                " divide it into several files"
            )
        try:
            available = get_decoder(self._syntax).is_available
        except NotImplementedError:  # pydicom raises it for a transfer syntax that it has no decoder for
            raise UserError(f"has the transfer syntax {self._name()}, which cannot be decoded: convert it") from None
        if not available:
            raise UserError(f"is compressed as {self._name()}: decoding it needs pip install 'medcap[dicom]'")
        check_layout(dataset)
        return frames

    def _name(self) -> str:
        return f"{self._syntax.name} ({self._syntax})" if self._syntax.name != self._syntax else str(self._syntax)

    def _picture(self, number: int, view: View) -> Image.Image:
        frame = read_frame(self._dataset, self._syntax, self.frames, number)
        little_endian = self._syntax.is_little_endian
        if frame.colours in GREY:
            levels = grey_levels(frame, number, self._dataset, little_endian, view)
        elif frame.colours == PALETTE:
            levels = palette_colours(frame.values, self._dataset, little_endian)
        else:
            levels = colour_levels(frame)
        return square_pixels(Image.fromarray(levels), *self._spacing(number), self.max_pixels)

    def _spacing(self, frame: int) -> tuple[float, float]:
        """Of rows and columns, in mm or relative; zeros where unknown."""
        item = frame_item(self._dataset, frame, "PixelMeasuresSequence")
        for key in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
            match numbers(item, key):
                case [float(rows), float(columns)]:
                    return rows, columns
                case _:
                    pass
        return 0.0, 0.0


def _check_deflated(file: BinaryIO, bare: bool, max_bytes: int) -> None:
    """Refuse a deflated file that grows beyond ``max_bytes``; leaves the file at its beginning."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    read_preamble(file, force=bare)
    if _read_file_meta_info(file).get("TransferSyntaxUID") == _DEFLATED:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), max_bytes + 1)
        if len(inflated) > max_bytes:
            raise UserError(f"has more than the {max_bytes:,} bytes allowed when it is inflated")
    file.seek(0)


def _transfer_syntax(dataset: Dataset) -> Any:
    """Return the file's own, or where it names none, what pydicom found while it read the elements."""
    from pydicom.uid import UID

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        implicit, little_endian = dataset.original_encoding
        syntax = UID(_IMPLICIT if implicit else _LITTLE if little_endian else _BIG)
        dataset.file_meta.TransferSyntaxUID = syntax
    return syntax


def _whole_number(dataset: Dataset, key: str, default: int) -> int:
    """Read a number of the header; the default where it is absent or holds only blanks."""
    try:
        stored = dataset.get_item(key)
        content = getattr(stored, "value", None)
        # Blanks are blanks only in text: two bytes 32 of a binary value are a number.
        blank = isinstance(content, bytes) and stored.VR in ("IS", None) and not content.strip(b" \0")
        if content is None or (blank and key == "NumberOfFrames"):
            return default
        return int(dataset.get(key) or default)
    except (ValueError, TypeError) as error:
        raise UserError(f"has no whole number as {key}") from error
