"""Regions drawn as masks of pixels: a pixel is inside if its centre is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medcap.data.boxes.box import Size
from medcap.data.regions.region import BoxShape, MaskFile, PointShape, PolygonShape, Region, RunLength
from medcap.data.regions.run_length import decode, encode
from medcap.errors import UserError

if TYPE_CHECKING:
    from medcap.data.images.reader import ImageReader
    from medcap.data.images.stored_values import StoredValues

_JPEG_INSIDE = 128  # compression leaves small values outside and large ones inside
_SHOWN_VALUES = 8


def draw_region(
    region: Region, size: Size, reader: ImageReader | None = None, may_be_empty: bool = False
) -> np.ndarray:
    """Return the pixels of a region.

    Of two regions that touch, each pixel is in one: a centre on a left or upper edge is inside, one on a right or lower
    edge is not. What lies outside the image is cut off.

    Args:
        region: any.
        size: width and height of the original image in pixels.
        reader: finds and opens the files of masks, as it does those of images; None where there are none.
        may_be_empty: whether a region without a pixel is returned.

    Returns:
        ``[H, W]`` bool.

    Raises:
        UserError: if no pixel is inside, a mask has another size than the image, its file cannot be read or lies
            outside the roots, or its run-length is damaged.
    """
    shape = region.shape
    match shape:
        case MaskFile():
            inside = read_mask(shape, reader)
            _check_size(region, inside.shape, size)
        case RunLength():
            _check_size(region, shape.size, size)  # before it is decoded: a few bytes may mean many pixels
            inside = read_mask(shape)
        case BoxShape():
            inside = _draw_box(shape, size)
        case PointShape():
            inside = _draw_point(shape, size)
        case PolygonShape():
            inside = _draw_polygon(shape, size)
    if not may_be_empty and not inside.any():
        raise UserError(
            f"{_named(region)} holds no pixel of its image of {size[0]} x {size[1]}{_reason(shape, reader)}"
        )
    return inside


def _check_size(region: Region, given: tuple[int, ...], size: Size) -> None:
    """See that a mask of this height and width lies on an image of this width and height."""
    if given != (size[1], size[0]):
        raise UserError(
            f"{_named(region)} has {given[1]} x {given[0]} pixels and its image {size[0]} x {size[1]}: a mask has the"
            " size of the original image"
        )


def read_mask(mask: MaskFile | RunLength, reader: ImageReader | None = None) -> np.ndarray:
    """Return a mask at its own size.

    Of a file, every value of at least 1 is inside, or exactly the ``value`` that is asked for. In a JPEG file, whose
    values are not exact, those of at least 128 are. A palette counts by its indices; three equal channels are one.

    Args:
        mask: a file or a run-length.
        reader: finds and opens the files of masks.

    Returns:
        ``[H, W]`` bool.

    Raises:
        UserError: if the file cannot be read or lies outside the roots, has colours or transparency, or the run-length
            is damaged.
    """
    if isinstance(mask, RunLength):
        return decode({"size": list(mask.size), "counts": mask.counts})
    if reader is None:
        raise UserError(f"mask file {mask.path} cannot be read here: no folder of images is known")
    return inside_of(reader.stored_values(reader.resolve(mask.path)), mask)


def inside_of(stored: StoredValues, mask: MaskFile) -> np.ndarray:
    """Return which pixels of a picture are inside a mask; see :func:`read_mask`.

    Args:
        stored: the picture.
        mask: its name, for messages, and the value that is asked for.

    Raises:
        UserError: if a value of a JPEG file is asked for, or the numbers are not whole, as probabilities are.
    """
    if stored.exact:
        if stored.values.dtype.kind == "f" and not (stored.values == np.floor(stored.values)).all():
            raise UserError(
                f"mask file {mask.path} holds numbers that are not whole: save which pixels are inside, as 0 and 1"
            )
        return stored.values >= 1 if mask.value is None else stored.values == mask.value
    if mask.value is not None:
        raise UserError(f"mask file {mask.path} is JPEG, which changes values: a mask with 'value' is a PNG file")
    return stored.values >= _JPEG_INSIDE


def as_run_length(region: Region, reader: ImageReader | None = None) -> Region:
    """Return a region whose mask file is read into a run-length; any other region unchanged.

    Raises:
        UserError: as :func:`read_mask`.
    """
    if not isinstance(region.shape, MaskFile):
        return region
    value = encode(read_mask(region.shape, reader))
    mixed = has_several_values(region.shape, reader)
    return replace(region, shape=RunLength(tuple(value["size"]), value["counts"], mixed))


def has_several_values(mask: MaskFile, reader: ImageReader | None) -> bool:
    """Return whether a mask file has several values above 0, of which none was chosen: all of them are inside.

    Args:
        mask: a file that can be read.
        reader: opens it.
    """
    if mask.value is not None or reader is None:
        return False
    stored = reader.stored_values(reader.resolve(mask.path))
    return stored.exact and len(np.unique(stored.values[stored.values >= 1])) > 1


def _draw_box(box: BoxShape, size: Size) -> np.ndarray:
    left, top, right, bottom = box.edges
    across, down = _centres(size)
    return ((down >= top) & (down < bottom))[:, None] & ((across >= left) & (across < right))


def _draw_point(point: PointShape, size: Size) -> np.ndarray:
    across, down = _centres(size)
    return (across - point.x) ** 2 + ((down - point.y) ** 2)[:, None] <= point.radius**2


def _draw_polygon(polygon: PolygonShape, size: Size) -> np.ndarray:
    """Change sides at every edge that a row of centres crosses."""
    width, height = size
    down = _centres(size)[1]
    crossed = np.zeros((height, width + 1), np.uint8)  # a crossing right of the last centre counts in the last column
    points = np.array(polygon.points)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        rows = np.flatnonzero((y1 <= down) != (y2 <= down))
        if rows.size:
            crossings = x1 + (down[rows] - y1) * ((x2 - x1) / (y2 - y1))
            columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
            crossed[rows, columns] ^= 1  # each row once an edge
    return np.bitwise_xor.accumulate(crossed, axis=1)[:, :width].astype(bool)


def _centres(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the columns, ``[W]``, and of the rows, ``[H]``."""
    return np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5


def _named(region: Region) -> str:
    shape = region.shape
    kind = {BoxShape: "box", PointShape: "point", PolygonShape: "polygon", RunLength: "run-length"}.get(type(shape), "")
    name = f"mask {shape.path}" if isinstance(shape, MaskFile) else f"the {kind} of a region"
    label = f" ({region.label})" if region.label else ""
    match shape:
        case BoxShape():
            return f"{name}{label} {[float(f'{edge:g}') for edge in shape.edges]}"
        case PointShape():
            return f"{name}{label} at ({shape.x:g}, {shape.y:g}) with radius {shape.radius:g}"
        case _:
            return name + label


def _reason(shape: object, reader: ImageReader | None) -> str:
    """Say which values a file has where none is the one that was asked for."""
    if not isinstance(shape, MaskFile) or shape.value is None or reader is None:
        return ""
    values = np.unique(reader.stored_values(reader.resolve(shape.path)).values)
    some = ", ".join(f"{value:g}" for value in values[:_SHOWN_VALUES])
    return f": none has the value {shape.value}; the file holds {some}{', ...' if len(values) > _SHOWN_VALUES else ''}"
