"""What a region of an image is, and the form that JSON files have of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medcap.data.regions.run_length import read_run_length
from medcap.errors import UserError

Point = tuple[float, float]  # x from the left, y from the top, in pixels of the original image

_FORMS = "{'box': [x1, y1, x2, y2]}, {'point': [x, y], 'radius': r}, {'polygon': [[x, y], ...]} or {'mask': 'file.png'}"
_FAR = 1e9  # pixels; beyond, and not a number, is no place
_KEYS = ("box", "point", "polygon", "mask")


@dataclass(frozen=True)
class BoxShape:
    """A rectangle.

    Attributes:
        edges: left, top, right and bottom in pixels; right and bottom lie outside it.
    """

    edges: tuple[float, float, float, float]


@dataclass(frozen=True)
class PointShape:
    """A disc around a point.

    Attributes:
        x: its centre from the left, in pixels.
        y: its centre from the top, in pixels.
        radius: in pixels, above 0.
    """

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class PolygonShape:
    """The inside of a closed line, by the even-odd rule.

    Attributes:
        points: at least three; the last is joined to the first.
    """

    points: tuple[Point, ...]


@dataclass(frozen=True)
class MaskFile:
    """A picture whose values say what is inside.

    Attributes:
        path: path as a row has it, or as an image reader resolved it.
        value: value of the pixels inside; None for every value of at least 1, as in MedPLIB.
    """

    path: str
    value: int | None = None


@dataclass(frozen=True)
class RunLength:
    """A mask in COCO's compressed form; see :mod:`medcap.data.regions.run_length`.

    Attributes:
        size: height and width.
        counts: its text, read when the mask is drawn.
        mixed: whether it was made of a file with several values above 0, all of which are inside. It is only told, so
            masks that differ in it alone are equal.
    """

    size: tuple[int, int]
    counts: str
    mixed: bool = field(default=False, compare=False)


Shape = BoxShape | PointShape | PolygonShape | MaskFile | RunLength


@dataclass(frozen=True)
class Region:
    """A part of an image.

    Attributes:
        shape: where it is, in pixels of the original image.
        label: what it shows, as far as the row says so.
        image: number of the image among those of its conversation, from 0.
    """

    shape: Shape
    label: str = ""
    image: int = 0


def region_from_json(value: Any, name: str = "regions") -> Region:
    """Read one region of a row.

    Args:
        value: ``{"box": [x1, y1, x2, y2]}``, ``{"point": [x, y], "radius": r}``, ``{"polygon": [[x, y], ...]}``,
            ``{"mask": "a.png"}``, with ``"value": 3`` where exactly this value is inside, or ``{"mask": {"size": [h,
            w], "counts": "..."}}``; each may hold ``label`` and ``image``. A text is a mask file, four numbers are a
            box, and ``size`` with ``counts`` alone is a run-length.
        name: name of the field, for messages.

    Returns:
        The region.

    Raises:
        UserError: for anything else, numbers that are not finite, or a shape without an area.
    """
    if isinstance(value, str):
        value = {"mask": value}
    elif isinstance(value, list):
        value = {"box": value}
    if not isinstance(value, Mapping):
        raise UserError(f"'{name}' holds {str(value)[:60]}: a region is {_FORMS}")
    if "counts" in value:
        more = {key: value[key] for key in ("label", "image") if key in value}
        value = {"mask": {key: value.get(key) for key in ("size", "counts")}, **more}
    given = [key for key in _KEYS if value.get(key) is not None]
    if len(given) != 1:
        raise UserError(f"'{name}' holds {str(value)[:60]}: a region has one of {', '.join(_KEYS)}")
    image = value.get("image", 0)
    if type(image) is not int or image < 0:
        raise UserError(f"'{name}' holds image {str(image)[:60]}: images have whole numbers from 0")
    return Region(_READERS[given[0]](value, name), label_from_json(value), image)


def regions_from_json(value: Any, name: str = "regions", absent: bool = False) -> tuple[Region | None, ...]:
    """Read the regions of a row.

    Args:
        value: a list of regions; see :func:`region_from_json`.
        name: name of the field, for messages.
        absent: whether ``null`` and ``{"mask": null, "label": "spleen"}`` are read as an object that is named but not
            on the image.

    Returns:
        The regions in their order; None for an absent object.

    Raises:
        UserError: as :func:`region_from_json`, and if it is not a list.
    """
    if not isinstance(value, list):
        raise UserError(f"'{name}' must be a list of regions, not {type(value).__name__}: a region is {_FORMS}")
    return tuple(None if absent and is_absent(entry) else region_from_json(entry, name) for entry in value)


def is_absent(value: Any) -> bool:
    """Return whether a region of a JSON file is null or has a null mask: an object that is not on the image."""
    if isinstance(value, Mapping):
        return "mask" in value and all(value.get(key) is None for key in (*_KEYS, "counts"))
    return value is None


def label_from_json(value: Any) -> str:
    """Return the label of a region in a JSON file, also of an absent object; "" where it has none."""
    label = value.get("label") if isinstance(value, Mapping) else None
    return "" if label is None else str(label)


def regions_as_json(regions: Iterable[Region | None]) -> list[Any]:
    """Return regions as a row holds them, the inverse of :func:`regions_from_json`; None becomes null."""
    return [None if region is None else _as_json(region) for region in regions]


def _as_json(region: Region) -> dict[str, Any]:
    shape = region.shape
    match shape:
        case BoxShape():
            form: dict[str, Any] = {"box": list(shape.edges)}
        case PointShape():
            form = {"point": [shape.x, shape.y], "radius": shape.radius}
        case PolygonShape():
            form = {"polygon": [list(point) for point in shape.points]}
        case MaskFile():
            form = {"mask": shape.path} | ({} if shape.value is None else {"value": shape.value})
        case RunLength():
            form = {"mask": {"size": list(shape.size), "counts": shape.counts}}
    return form | {key: value for key, value in (("label", region.label), ("image", region.image)) if value}


def _box(value: Mapping[str, Any], name: str) -> BoxShape:
    edges = value["box"]
    if not _are_numbers(edges, 4):
        raise UserError(f"'{name}' holds {str(edges)[:60]}: a box is four numbers [x1, y1, x2, y2]")
    left, top, right, bottom = (float(edge) for edge in edges)
    if not (left < right and top < bottom):
        raise UserError(f"'{name}' holds {str(edges)[:60]}, which has no area: x1 < x2 and y1 < y2 are needed")
    return BoxShape((left, top, right, bottom))


def _point(value: Mapping[str, Any], name: str) -> PointShape:
    point, radius = value["point"], value.get("radius")
    if not _are_numbers(point, 2) or not _are_numbers([radius], 1) or radius <= 0:  # type: ignore[operator]
        raise UserError(f"'{name}' holds {str(value)[:60]}: a point is 'point' [x, y] and 'radius', above 0, in pixels")
    return PointShape(float(point[0]), float(point[1]), float(radius))  # type: ignore[arg-type]


def _polygon(value: Mapping[str, Any], name: str) -> PolygonShape:
    points = value["polygon"]
    if not isinstance(points, list) or len(points) < 3 or not all(_are_numbers(point, 2) for point in points):
        raise UserError(f"'{name}' holds {str(points)[:60]}: a polygon is at least three points [[x, y], ...]")
    return PolygonShape(tuple((float(x), float(y)) for x, y in points))


def _mask(value: Mapping[str, Any], name: str) -> MaskFile | RunLength:
    mask, inside = value["mask"], value.get("value")
    if not isinstance(mask, str):
        return RunLength(*read_run_length(mask, name))
    if not mask.strip():
        raise UserError(f"'{name}' holds a mask file without a name")
    if inside is not None and (type(inside) is not int or inside < 0):
        raise UserError(f"'{name}' holds value {repr(inside)[:60]}: the value of a mask is a whole number from 0")
    return MaskFile(mask, inside)


def _are_numbers(entry: Any, count: int) -> bool:
    if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != count:
        return False
    return all(isinstance(n, int | float) and not isinstance(n, bool) and -_FAR < n < _FAR for n in entry)


_READERS = {"box": _box, "point": _point, "polygon": _polygon, "mask": _mask}
