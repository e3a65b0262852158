"""Masks as run-lengths in COCO's form: ``{"size": [height, width], "counts": "..."}``.

Pixels are counted column by column from the top left: first those outside, then those inside, and so on.
Source: cocodataset/cocoapi, ``common/maskApi.c`` (``rleToString``, ``rleFrString``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medcap.errors import UserError

if TYPE_CHECKING:
    import numpy as np

_FIRST, _MORE, _SIGN, _DIGIT = 48, 0x20, 0x10, 0x1F  # of a character: its zero, and the bits of its six
_MOST_CHARACTERS = 8  # of one number: 40 bits


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask as COCO's compressed run-length.

    Args:
        mask: ``[H, W]`` bool.

    Returns:
        ``{"size": [H, W], "counts": text}``, ready for JSON.
    """
    import numpy as np
    from pycocotools import mask as coco  # here, because few runs need it

    height, width = mask.shape
    counts: Any = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]  # bytes, whatever its stub says
    return {"size": [height, width], "counts": counts.decode("ascii")}


def decode(value: Any, name: str = "mask") -> np.ndarray:
    """Return the mask that a run-length means.

    pycocotools gives memory that nothing was written to where the counts do not fill the mask, so they are read here.

    Args:
        value: an object with ``size`` and ``counts``, compressed (text) or not (numbers).
        name: name of the field, for messages.

    Returns:
        ``[H, W]`` bool.

    Raises:
        UserError: if it is not such an object, its counts do not fill the mask, or the mask is too large.
    """
    import numpy as np

    (height, width), counts = read_run_length(value, name)
    lengths = _lengths(counts, name)
    total = int(lengths.sum())
    if lengths.size and lengths.min() < 0:
        raise UserError(f"'{name}' holds a run-length of a negative number of pixels: its counts are damaged")
    if total != height * width:
        raise UserError(
            f"'{name}' holds a run-length of {total:,} pixels, but its size [{height}, {width}] has"
            f" {height * width:,}: its counts are damaged, or size is not [height, width]"
        )
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def read_run_length(value: Any, name: str = "mask") -> tuple[tuple[int, int], str]:
    """Check the form of a run-length; what its counts hold is checked by :func:`decode`.

    Args:
        value: an object with ``size`` and ``counts``, compressed (text) or not (numbers).
        name: name of the field, for messages.

    Returns:
        Height and width, and the compressed counts.

    Raises:
        UserError: for anything else, or if the mask has more than 50 million pixels.
    """
    from medcap.data.images.pixel_samples import MAX_PIXELS

    size, counts = (value.get("size"), value.get("counts")) if isinstance(value, Mapping) else (None, None)
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise UserError(
            f"'{name}' holds {str(value)[:60]}: a run-length is an object with 'size' [height, width] and 'counts'"
        )
    height, width = size
    if height * width > MAX_PIXELS:
        raise UserError(
            f"'{name}' holds a run-length of {width} x {height}, more than the {MAX_PIXELS:,} pixels allowed"
        )
    if isinstance(counts, bytes):  # as pycocotools returns them
        counts = counts.decode("latin-1")
    if isinstance(counts, str):
        return (height, width), counts
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise UserError(f"'{name}' holds a run-length whose counts are {str(counts)[:60]}: they are a text or numbers")
    if sum(counts) != height * width:
        raise UserError(
            f"'{name}' holds a run-length of {sum(counts):,} pixels, but its size [{height}, {width}] has"
            f" {height * width:,}"
        )
    from pycocotools import mask as coco

    uncompressed: Any = {"size": [height, width], "counts": counts}
    compressed: Any = coco.frPyObjects(uncompressed, height, width)
    return (height, width), compressed["counts"].decode("ascii")


def _lengths(counts: str, name: str) -> np.ndarray:
    """Return the numbers of compressed counts, ``[n]`` int64.

    A number is five bits a character, the lowest first; its last character has no mark of more, and holds its sign.
    From the fourth on it is the difference to the number before the last.
    """
    import numpy as np

    digits = np.frombuffer(counts.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - _FIRST
    ends = np.flatnonzero((digits & _MORE) == 0) if digits.size else np.zeros(0, np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1]) if ends.size else ends
    lengths = ends - starts + 1
    whole = digits.size and digits.min() >= 0 and digits.max() < 64 and ends.size and ends[-1] == digits.size - 1
    if not whole or lengths.max() > _MOST_CHARACTERS:
        raise UserError(f"'{name}' holds a run-length whose counts {counts[:30]!r} cannot be read: they are damaged")
    shifts = 5 * (np.arange(digits.size) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((digits & _DIGIT) << shifts, starts)
    negative = (digits[ends] & _SIGN) != 0
    numbers = np.where(negative, numbers - (1 << (5 * lengths)), numbers)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
