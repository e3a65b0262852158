"""Draws phantoms at any resolution: anatomy of their modality, lesions, masks."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medcap.datasets.phantoms.records import Phantom

Plane = NDArray[np.float64]  # [h, w], or [h, 1] and [1, w] for the two axes

REACH = 1.8
_LIGHT = {"bright": (1.00, 0.98, 0.90), "dark": (0.02, 0.02, 0.03)}


class Lesion(Protocol):
    """What a lesion's picture depends on; ``radius`` is in units of the image's shorter side."""

    @property
    def kind(self) -> str: ...
    @property
    def brightness(self) -> str: ...
    @property
    def outline(self) -> str: ...
    @property
    def centre(self) -> tuple[float, float]: ...
    @property
    def radius(self) -> float: ...
    @property
    def rotation(self) -> float: ...


def draw(phantom: Phantom, image_size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a phantom; edges are one pixel soft, so every resolution shows the same scene.

    Args:
        phantom (Phantom): what to draw.
        image_size (int): n, width and height in pixels.

    Returns:
        tuple: the image, uint8 RGB of shape [n, n, 3], and the lesion's mask, bool of shape [n, n].
    """
    image, masks = draw_lesions(phantom.modality, phantom.texture(), [phantom], (image_size, image_size))
    return image, masks[0]


def draw_lesions(
    modality: str, texture: np.random.Generator, lesions: Sequence[Lesion], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw lesions on the anatomy of a modality, which is stretched to the image's size; lesions keep their form.

    Args:
        modality (str): whose anatomy.
        texture (np.random.Generator): the background's noise.
        lesions (Sequence[Lesion]): n of them; where two overlap, the later one covers the earlier one.
        size (tuple[int, int]): width w and height h in pixels.

    Returns:
        tuple: the image, uint8 RGB of shape [h, w, 3], and the lesions' masks, bool of shape [n, h, w].
    """
    width, height = size
    side = min(width, height)
    x, y = ((np.arange(width) + 0.5) / width)[None, :], ((np.arange(height) + 0.5) / height)[:, None]
    image = _ANATOMIES[modality](x, y, texture)  # [h, w, 3]
    masks = np.zeros((len(lesions), height, width), dtype=bool)
    for lesion, mask in zip(lesions, masks, strict=True):
        right, down = (x - lesion.centre[0]) * (width / side), (y - lesion.centre[1]) * (height / side)
        distance = _distance(lesion, right, down)  # [h, w]
        cover = np.clip(0.5 - distance * side, 0.0, 1.0)[..., None]
        image = image * (1 - cover) + np.array(_LIGHT[lesion.brightness]) * cover
        mask[:] = distance <= 0
    return np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8), masks


def bounding_box(mask: NDArray[np.bool_]) -> list[int]:
    """Return the smallest box ``[x1, y1, x2, y2)`` in pixels around a mask of shape [h, w] that is not empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _distance(lesion: Lesion, right: Plane, down: Plane) -> Plane:
    """Distance to the outline, negative inside, of points beside and below the centre; all in image sides, [h, w]."""
    cosine, sine = np.cos(lesion.rotation), np.sin(lesion.rotation)
    right, down = right / lesion.radius, down / lesion.radius
    u, v = cosine * right + sine * down, cosine * down - sine * right
    distance = _BODIES[lesion.kind](u, v)
    if lesion.outline == "spiky":
        distance = np.minimum(distance, _rays(u, v, *_RAYS[lesion.kind]))
    return distance * lesion.radius


def _nodule(u: Plane, v: Plane) -> Plane:
    return np.hypot(u, v) - 1


def _ring(u: Plane, v: Plane) -> Plane:
    return np.abs(np.hypot(u, v) - 0.78) - 0.24


def _cross(u: Plane, v: Plane) -> Plane:
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - 1.05, v - 0.27), np.maximum(v - 1.05, u - 0.27))


def _cluster(u: Plane, v: Plane) -> Plane:
    angles = np.pi / 2 + np.arange(3) * 2 * np.pi / 3
    discs = [np.hypot(u - 0.68 * np.cos(angle), v - 0.68 * np.sin(angle)) - 0.4 for angle in angles.tolist()]
    return np.minimum.reduce(discs)


_BODIES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "nodule": _nodule,
    "ring": _ring,
    "cross": _cross,
    "cluster": _cluster,
}


# Number of rays, angle of the first in radians, where they begin in body radii: along a cross's arms, through a
# cluster's discs.
_RAYS = {
    "nodule": (6, 0.0, 0.7),
    "ring": (6, 0.0, 0.7),
    "cross": (4, 0.0, 0.0),
    "cluster": (6, np.pi / 2, 0.7),
}


def _rays(u: Plane, v: Plane, count: int, first: float, start: float) -> Plane:
    """Wedges that leave the body on all sides and end in points at ``REACH`` body radii."""
    sector = 2 * np.pi / count
    angle = np.arctan2(v, u) - first
    angle = angle - np.round(angle / sector) * sector
    along, across = np.hypot(u, v) * np.cos(angle), np.hypot(u, v) * np.abs(np.sin(angle))
    return np.maximum(across - 0.42 * (1 - along / REACH), start - along)


def _noise(stream: np.random.Generator, cells: int, x: Plane, y: Plane) -> Plane:
    """Smooth noise of unit lattice variance, defined between the pixels too: ``cells`` bumps along a side; [n, n]."""
    lattice = stream.standard_normal((cells + 1, cells + 1))
    return _weights(y.ravel(), cells) @ lattice @ _weights(x.ravel(), cells).T


def _weights(axis: Plane, cells: int) -> Plane:
    position = axis * cells
    left = np.minimum(position.astype(int), cells - 1)
    part = position - left
    part = part * part * (3 - 2 * part)
    weights = np.zeros((len(axis), cells + 1))
    rows = np.arange(len(axis))
    weights[rows, left], weights[rows, left + 1] = 1 - part, part
    return weights


def _inside(distance: Plane, softness: float = 0.012) -> Plane:
    return 1 / (1 + np.exp(np.clip(distance / softness * 4, -60, 60)))


def _bump(distance: Plane, width: float | Plane) -> Plane:
    return np.exp(-((distance / width) ** 2))


def _tint(grey: Plane, colour: tuple[float, float, float]) -> NDArray[np.float64]:
    return grey[..., None] * np.array(colour)  # [n, n, 3]


def _korvogram(x: Plane, y: Plane, stream: np.random.Generator) -> NDArray[np.float64]:
    """Return a projection: two fields crossed by rib bands, a pale column between them, a dome below."""
    lean, pitch = stream.uniform(-0.02, 0.02), stream.uniform(5.2, 5.8)
    aside = np.abs(x - 0.5 - lean)
    ribs = 0.5 + 0.5 * np.sin(2 * np.pi * pitch * (y - 0.9 * (aside - 0.2) ** 2 + 0.12 * aside))
    grey = 0.36 + 0.13 * ribs**3 * _inside(0.07 - aside, 0.03) + 0.22 * _bump(aside, 0.07)
    grey = grey + 0.25 * _inside(0.86 + 0.5 * (aside - 0.22) ** 2 - y, 0.03)
    grey = grey + 0.22 * _inside(0.44 - aside - 0.05 * y, 0.03)
    grey = grey + 0.025 * _noise(stream, 6, x, y) + 0.018 * _noise(stream, 60, x, y)
    return _tint(grey, (0.92, 0.99, 1.08))


def _velotome(x: Plane, y: Plane, stream: np.random.Generator) -> NDArray[np.float64]:
    """Return a cut: a body with a pale rim on black, two organs, and a vertebra at its lower edge."""
    width, height = 0.475 + stream.uniform(-0.01, 0.01), 0.435 + stream.uniform(-0.01, 0.01)
    rim = np.hypot((x - 0.5) / width, (y - 0.5) / height) - 1
    grey = 0.42 + 0.03 * _noise(stream, 7, x, y) + 0.02 * _noise(stream, 50, x, y)
    for side in (-1, 1):
        organ = np.hypot((x - 0.5 - side * 0.24) / 0.15, (y - 0.52) / 0.24) - 1
        grey = grey + 0.1 * _inside(organ, 0.1)
    grey = grey + 0.4 * _bump(rim + 0.05, 0.035)
    grey = grey + 0.35 * _inside(np.hypot((x - 0.5) / 0.07, (y - 0.875) / 0.035) - 1, 0.2)
    return _tint(grey * _inside(rim, 0.02), (1.0, 1.0, 1.0))


def _murmograph(x: Plane, y: Plane, stream: np.random.Generator) -> NDArray[np.float64]:
    """Draw an echo: a fan of speckle with a few bright layers on black."""
    depth = np.hypot(x - 0.5, y + 0.4)
    angle = np.arctan2(x - 0.5, y + 0.4)
    fan = _inside(np.abs(angle) - 0.66) * _inside(0.47 - depth) * _inside(depth - 1.36)
    speckle = np.hypot(_noise(stream, 34, x, y), _noise(stream, 34, x, y))
    layers = sum(_bump(depth - at, 0.012) for at in (0.52, 0.58, 1.24 + stream.uniform(-0.03, 0.03)))
    grey = (0.26 + 0.13 * speckle) * (1.15 - 0.3 * depth) + 0.3 * layers
    return _tint(grey * fan, (1.06, 0.96, 0.80))


def _lumascope(x: Plane, y: Plane, stream: np.random.Generator) -> NDArray[np.float64]:
    """Return a view through a lens: a round orange field with vessels that leave a pale disc at its edge."""
    disc = np.hypot(x - 0.5, y - 0.5)
    side = 1 if stream.random() < 0.5 else -1
    away = (0.5 + side * 0.4 - x) * side
    vessels = sum(
        _bump(y - 0.5 - up * np.sign(away) * np.abs(away) ** 0.6, 0.012 - 0.005 * np.clip(away, 0, 1))
        for up in (-0.52, -0.26, 0.24, 0.5)
    ) * (away > 0)
    light = 1.05 - 0.7 * disc**2 + 0.04 * _noise(stream, 8, x, y) + 0.02 * _noise(stream, 60, x, y)
    colour = light[..., None] * np.array((0.80, 0.38, 0.16))  # [n, n, 3]
    colour = colour * (1 - np.clip(vessels, 0, 1)[..., None] * np.array((0.35, 0.5, 0.4)))
    pale = _inside(np.hypot(away / 0.05, (y - 0.5) / 0.06) - 1, 0.3)[..., None]
    colour = colour * (1 - pale) + np.array((0.98, 0.80, 0.45)) * pale
    return colour * _inside(disc - 0.48)[..., None]


_ANATOMIES: dict[str, Callable[[Plane, Plane, np.random.Generator], NDArray[np.float64]]] = {
    "korvogram": _korvogram,
    "velotome": _velotome,
    "murmograph": _murmograph,
    "lumascope": _lumascope,
}
