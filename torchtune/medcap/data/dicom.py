"""Pictures of DICOM files: stored values -> units of the modality -> window -> 8 bit.

The order and the formulas are those of DICOM PS3.3, C.11.1 (modality LUT and rescale) and C.11.2 (VOI LUT and
window); where several frames have their own values, C.7.6.16 (functional groups). pydicom reads and decodes; it is
imported when the first DICOM file is opened.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image

from medcap.data.coded_size import coded_size
from medcap.data.grey_levels import View, apply_window, choose_frames, square_pixels, stretch
from medcap.errors import TooManyPixelsError, UserError

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_VOLUME_PIXELS = 1_000_000_000  # of all frames together; only the frames that are asked for are ever decoded
START_BYTES = 132
_PREFIX = b"DICM"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_FIRST_GROUPS = (0x0002, 0x0008)
# PS3.6: deflated explicit, implicit, explicit little and explicit big endian, RLE.
_DEFLATED, _IMPLICIT, _LITTLE, _BIG = (f"1.2.840.10008.1.2{end}" for end in (".1.99", "", ".1", ".2"))
_RLE = "1.2.840.10008.1.2.5"


def has_preamble(start: bytes) -> bool:
    """Whether a file is DICOM as PS3.10 wants it, by its first ``START_BYTES`` bytes."""
    return start[128:132] == _PREFIX


def is_bare(start: bytes) -> bool:
    """Whether a file may be DICOM without a preamble: it begins with an element of group 2 or 8.

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
        file: at its beginning.
        start: its first ``START_BYTES`` bytes.
        max_pixels: rows x columns above which it is refused.
        max_bytes: what a deflated file may hold when inflated.
        header_only: read nothing behind the header; no picture can be had then.

    Attributes:
        format: ``DICOM``.
        frames: how many there are.

    Raises:
        UserError: if pydicom is not installed, there are no pixels, they are too many, or nothing can decode them.
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
            view: which, and of which values.

        Yields:
            The frame's number from 0, and the picture: mode L or RGB.

        Raises:
            UserError: if there is no such frame or window. Whatever pydicom and its decoders raise: what a damaged
                file makes them raise cannot be foreseen.
        """
        for frame in choose_frames(view.frames, self.frames):
            yield frame, self._picture(frame, view)

    def _check(self) -> int:
        from pydicom.pixels import get_decoder

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
        except NotImplementedError:
            raise UserError(f"has the transfer syntax {self._name()}, which cannot be decoded: convert it") from None
        if not available:
            raise UserError(f"is compressed as {self._name()}: decoding it needs pip install 'medcap[dicom]'")
        return frames

    def _name(self) -> str:
        return f"{self._syntax.name} ({self._syntax})" if self._syntax.name != self._syntax else str(self._syntax)

    def _decode(self, frame: int) -> tuple[np.ndarray, str]:
        """One frame: stored values ``[rows, columns]`` or colours ``[rows, columns, 3]``, and what they stand for."""
        from pydicom.pixels import get_decoder

        if not any(key in self._dataset for key in _PIXELS):
            raise UserError("has no pixel data; is the file cut off?")
        if self._syntax.is_encapsulated:
            self._check_coded_size(frame)
        try:
            values, found = get_decoder(self._syntax).as_array(self._dataset, index=frame)
        except BaseException as error:
            # What a decoder in Rust raises when it panics is no Exception, and would end the run.
            if type(error).__name__ == "PanicException":
                raise UserError(f"is damaged: its decoder failed ({error})") from error
            raise
        return values, str(found["photometric_interpretation"])

    def _check_coded_size(self, frame: int) -> None:
        """Refuse a frame whose compressed data hold another size than the header was checked for."""
        from pydicom.encaps import get_frame

        dataset = self._dataset
        offsets = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
        data = get_frame(
            dataset.PixelData,
            frame,
            extended_offsets=offsets if all(offsets) else None,
            number_of_frames=self.frames,
        )
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        if self._syntax == _RLE:
            # Runs make no frame longer than one byte in 128 more than it is, and its header.
            most = rows * columns * int(dataset.SamplesPerPixel) * math.ceil(int(dataset.BitsAllocated) / 8)
            if len(data) > 2 * most + 1024:
                raise UserError(f"frame {frame} has {len(data):,} bytes for {most:,} bytes of pixels")
        else:
            size = coded_size(data)
            if size != (columns, rows):
                found = "no size" if size is None else f"{size[0]} x {size[1]}"
                raise UserError(
                    f"is {columns} x {rows} by its header, but its compressed data say {found}; is it cut off?"
                )

    def _picture(self, frame: int, view: View) -> Image.Image:
        values, colours = self._decode(frame)
        if colours in _GREY:
            levels = self._grey(values, frame, view)
            picture = Image.fromarray(255 - levels if colours == "MONOCHROME1" else levels)
        else:
            picture = Image.fromarray(self._colour(values, colours))
        return square_pixels(picture, *self._spacing(frame), self.max_pixels)

    def _colour(self, values: np.ndarray, colours: str) -> np.ndarray:
        bits = int(self._dataset.BitsStored)
        if colours == "PALETTE COLOR":
            from pydicom.pixels import apply_color_lut

            values = apply_color_lut(values, self._dataset)
            bits = values.dtype.itemsize * 8
        elif colours != "RGB":
            raise UserError(f"has the colours {colours}, which are not read: convert it to RGB")
        return (values[..., :3] >> max(0, bits - 8)).astype(np.uint8)

    def _grey(self, stored: np.ndarray, frame: int, view: View) -> np.ndarray:
        """Levels before MONOCHROME1 is inverted, uint8 ``[rows, columns]``."""
        dataset = self._dataset
        rescale = _rescale(_frame_item(dataset, frame, "PixelValueTransformationSequence"), self._little_endian())
        values = rescale(stored)
        display = self._display(frame, view)
        if display is not None:
            return display(values)
        if int(dataset.BitsStored) <= 8 and stored.dtype.kind == "u":
            # 8 bits are levels already, as those of a PNG are.
            low, high = rescale(np.array([0, 2 ** int(dataset.BitsStored) - 1]))
            return stretch(values, float(low), float(high))
        return _stretch_without_padding(stored, values, dataset)

    def _display(self, frame: int, view: View) -> Callable[[np.ndarray], np.ndarray] | None:
        """The window or VOI LUT: values in units of the modality -> uint8 levels; None where the file has none."""
        item = _frame_item(self._dataset, frame, "FrameVOILUTSequence")
        function = str(item.get("VOILUTFunction") or "LINEAR").upper()
        if isinstance(view.window, tuple):
            return lambda values: window_levels(values, *view.window, function)
        tables = list(item.get("VOILUTSequence") or [])
        windows = [
            (center, width)
            for center, width in zip(_numbers(item, "WindowCenter"), _numbers(item, "WindowWidth"), strict=False)
            if width > 0 and math.isfinite(center) and math.isfinite(width)
        ]
        # A table is made for its image; a window approximates it. A number means a window where there are some.
        choices: list[Any] = windows or tables if isinstance(view.window, int) else tables or windows
        if not choices and not isinstance(view.window, int):
            return None
        number = view.window or 0
        if not 0 <= number < len(choices):
            raise UserError(f"has no window {number}: it has {len(choices)}, numbered from 0")
        choice = choices[number]
        if isinstance(choice, tuple):
            return lambda values: window_levels(values, *choice, function)
        little_endian = self._little_endian()
        top = 2 ** int(choice.LUTDescriptor[2]) - 1
        return lambda values: stretch(_look_up(values, choice, little_endian), 0, top)

    def _little_endian(self) -> bool:
        return self._syntax.is_little_endian

    def _spacing(self, frame: int) -> tuple[float, float]:
        """Of rows and columns, in mm or relative; zeros where unknown."""
        item = _frame_item(self._dataset, frame, "PixelMeasuresSequence")
        for key in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
            numbers = _numbers(item, key)
            if len(numbers) == 2:
                return numbers[0], numbers[1]
        return 0.0, 0.0


def window_levels(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Apply a window (PS3.3, C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: in units of the modality.
        center: of the window.
        width: of the window, above 0.
        function: LINEAR, LINEAR_EXACT or SIGMOID.

    Returns:
        uint8 of the same shape.

    Raises:
        UserError: for another function.
    """
    if function == "LINEAR_EXACT" or (function == "LINEAR" and width < 1):
        return apply_window(values, center, width)
    if function == "LINEAR":
        if width == 1:
            return np.where(values > center - 0.5, 255, 0).astype(np.uint8)
        return apply_window(values, center - 0.5, width - 1)
    if function == "SIGMOID":
        exponent = np.clip(-4 * (np.asarray(values, dtype=np.float64) - center) / width, -700, 700)
        return stretch(1 / (1 + np.exp(exponent)), 0, 1)
    raise UserError(f"has the window function {function}: give --window CENTER WIDTH")


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
    """The file's own, or where it names none, what pydicom found while it read the elements."""
    from pydicom.uid import UID

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        implicit, little_endian = dataset.original_encoding
        syntax = UID(_IMPLICIT if implicit else _LITTLE if little_endian else _BIG)
        dataset.file_meta.TransferSyntaxUID = syntax
    return syntax


def _frame_item(dataset: Dataset, frame: int, sequence: str) -> Dataset:
    """Where a frame's values stand: in its own functional group, in the shared one, or in the file's own elements."""
    own, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    groups = [own[frame]] if own and frame < len(own) else []
    for group in [*groups, *(shared or [])[:1]]:
        if group.get(sequence):
            return group[sequence].value[0]
    return dataset


def _numbers(item: Dataset, key: str) -> list[float]:
    value = item.get(key)
    if value is None or value == "":
        return []
    return [float(number) for number in (value if not isinstance(value, (str, int, float)) else [value])]


def _rescale(item: Dataset, little_endian: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Stored values -> units of the modality."""
    if item.get("ModalityLUTSequence"):
        table = item.ModalityLUTSequence[0]
        return lambda values: _look_up(values, table, little_endian)
    slope = (_numbers(item, "RescaleSlope") or [1.0])[0]
    intercept = (_numbers(item, "RescaleIntercept") or [0.0])[0]
    if (slope, intercept) == (1.0, 0.0):
        return lambda values: values
    return lambda values: values.astype(np.float64) * slope + intercept


def _whole_number(dataset: Dataset, key: str, default: int) -> int:
    """A number of the header; the default where it is absent or holds only blanks."""
    try:
        stored = dataset.get_item(key)
        content = getattr(stored, "value", None)
        if content is None or (isinstance(content, bytes) and not content.strip(b" \0")):
            return default
        return int(dataset.get(key) or default)
    except (ValueError, TypeError) as error:
        raise UserError(f"has no whole number as {key}") from error


def _look_up(values: np.ndarray, item: Dataset, little_endian: bool) -> np.ndarray:
    """Map values by a LUT (PS3.3, C.11.1.1.1); what lies before its first entry or behind its last gets that."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 2**16
    if first > 32767 and np.any(values < 0):
        first -= 2**16  # a signed number that was written without its type
    data = item.LUTData
    if isinstance(data, bytes):
        wide = len(data) >= 2 * entries
        data = np.frombuffer(data, dtype=f"{'<' if little_endian else '>'}u2" if wide else np.uint8)
    table = np.atleast_1d(np.asarray(data, dtype=np.int64))[:entries] & (2**bits - 1)
    return table[np.clip(np.round(values).astype(np.int64) - first, 0, len(table) - 1)]


def _stretch_without_padding(stored: np.ndarray, values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Stretch from the smallest to the largest value that is no padding (PS3.3, C.7.5.1.1.2)."""
    padding = _numbers(dataset, "PixelPaddingValue")
    if not padding:
        return stretch(values)
    limit = _numbers(dataset, "PixelPaddingRangeLimit") or padding
    low, high = sorted((padding[0], limit[0]))
    kept = values[((stored < low) | (stored > high)) & np.isfinite(values)]
    return stretch(values, kept.min(), kept.max()) if kept.size else stretch(values)
