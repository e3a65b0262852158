"""The outline of a mask as an SVG path."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MOST_SIDE = 512  # pixels: finer edges cannot be seen in a page
MOST_CORNERS = 4_000  # of one mask that is all specks
_SHIFTS = ("h", 1), ("v", 1), ("h", -1), ("v", -1)  # east, south, west, north: each is the right turn of the one before


@dataclass(frozen=True)
class Outline:
    """The edges of a mask.

    Attributes:
        path: path of an SVG ``<path>``, its inside filled by either rule.
        unit: pixels of the mask that one unit of the path is long; 1 where nothing was left out.
        edges: left, top, right and bottom in pixels of the mask.
    """

    path: str
    unit: int
    edges: tuple[int, int, int, int]


def outline(mask: np.ndarray) -> Outline | None:
    """Trace the edges of a mask along its pixels.

    Args:
        mask: ``[H, W]`` bool.

    Returns:
        Its outline; of a large mask, or one of many specks, that of a smaller one. None if no pixel is inside.
    """
    if not mask.any():
        return None
    unit = max(1, math.ceil(max(mask.shape) / MOST_SIDE))
    small = _smaller(mask, unit)
    while _corners(small) > MOST_CORNERS:
        unit *= 2
        small = _smaller(mask, unit)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    edges = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    return Outline(_path(small), unit, edges)


def _smaller(mask: np.ndarray, unit: int) -> np.ndarray:
    """Return the squares of ``unit`` pixels that are at least half inside; if none is, those with a pixel inside."""
    if unit == 1:
        return mask
    padded = np.pad(mask, [(0, -side % unit) for side in mask.shape])
    shares = padded.reshape(padded.shape[0] // unit, unit, padded.shape[1] // unit, unit).mean(axis=(1, 3))
    return shares >= 0.5 if (shares >= 0.5).any() else shares > 0


def _corners(mask: np.ndarray) -> int:
    padded = np.pad(mask, 1)
    around = padded[1:, 1:] ^ padded[1:, :-1] ^ padded[:-1, 1:] ^ padded[:-1, :-1]
    return int(np.count_nonzero(around))


def _path(mask: np.ndarray) -> str:
    """Walk around each part, its inside on the right; parts that touch only at a corner are apart."""
    width = mask.shape[1] + 1
    padded = np.pad(mask, 1)
    starts = np.zeros((4, mask.shape[0] + 1, width), bool)  # the corners from which an edge leads in each direction
    starts[0, :-1, :-1] = mask & ~padded[:-2, 1:-1]
    starts[1, :-1, 1:] = mask & ~padded[1:-1, 2:]
    starts[2, 1:, 1:] = mask & ~padded[2:, 1:-1]
    starts[3, 1:, :-1] = mask & ~padded[1:-1, :-2]
    steps = 1, width, -1, -width
    left = [set(np.flatnonzero(direction).tolist()) for direction in starts]
    parts: list[str] = []
    for first in np.flatnonzero(starts[0]).tolist():
        if first not in left[0]:
            continue
        parts.append(f"M{first % width} {first // width}")
        place, direction, length = first + 1, 0, 1
        while True:
            # The first edge is still there: it ends the walk.
            turned = next(turn % 4 for turn in (direction + 1, direction, direction + 3) if place in left[turn % 4])
            left[turned].remove(place)
            if turned == 0 and place == first:
                break
            if turned != direction:
                letter, sign = _SHIFTS[direction]
                parts.append(f"{letter}{sign * length}")
                direction, length = turned, 0
            place += steps[turned]
            length += 1
        parts.append("z")
    return "".join(parts)
