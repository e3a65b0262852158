"""Scenes: phantoms with several lesions of different kinds, each with its own place, size, brightness and outline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcap.data.boxes.box import Box, Size
from medcap.datasets.phantoms.drawing import REACH, bounding_box, draw_lesions
from medcap.datasets.phantoms.records import (
    BRIGHTNESSES,
    KINDS,
    MODALITIES,
    OUTLINES,
    RADIUS_JITTER,
    SIZES,
    choose,
    random_stream,
)
from medcap.errors import UserError

# Body radius in units of the image's shorter side: smaller than that of a single lesion, so that three find room.
RADII = {"small": 0.075, "medium": 0.1, "large": 0.13}
# Lesions lie inside a circle of this radius around the image's centre, which every anatomy fills, and this far apart.
FIELD, GAP = 0.46, 0.02
_SMOOTH_REACH = 1.1  # farthest point of a smooth lesion, in body radii
_ATTEMPTS = 60

# Purposes of the random streams; those of single phantoms are 0 to 3.
_TRUTH, _TEXTURE, QUESTIONS, TEXT = range(4, 8)


@dataclass(frozen=True)
class Lesion:
    """One lesion of a scene; ``centre`` is in shares of width and height, ``radius`` in units of the shorter side."""

    kind: str
    size: str
    brightness: str
    outline: str
    centre: tuple[float, float]
    radius: float
    rotation: float

    @property
    def finding(self) -> str:
        """For example "a large bright nodule with a spiky outline"."""
        return f"a {self.size} {self.brightness} {self.kind} with a {self.outline} outline"


@dataclass(frozen=True)
class Scene:
    """Everything that is true of one picture, free of any resolution; the lesions are in the order of ``KINDS``."""

    seed: int
    index: int
    modality: str
    lesions: tuple[Lesion, ...]

    @property
    def absent(self) -> tuple[str, ...]:
        """Return the kinds that the picture does not show."""
        shown = {lesion.kind for lesion in self.lesions}
        return tuple(kind for kind in KINDS if kind not in shown)

    @property
    def caption(self) -> str:
        """For example "A velotome showing a small dark ring with a smooth outline and a large ..."."""
        return f"A {self.modality} showing {join_words([lesion.finding for lesion in self.lesions])}."

    def lesion(self, kind: str) -> Lesion:
        """Return the lesion of a kind that the picture shows."""
        return next(lesion for lesion in self.lesions if lesion.kind == kind)


@dataclass(frozen=True)
class DrawnScene:
    """A scene at one resolution.

    Attributes:
        scene: what is true of it.
        size: width w and height h in pixels.
        image: uint8 RGB, ``[h, w, 3]``.
        masks: by kind, bool ``[h, w]``; no two share a pixel.
    """

    scene: Scene
    size: Size
    image: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]]

    def pixels(self, kind: str) -> list[int]:
        """Return the box around a lesion's mask: x1, y1, x2, y2 in pixels, x2 and y2 one beyond the last."""
        return bounding_box(self.masks[kind])

    def box(self, kind: str) -> Box:
        """Return the same in shares of the image."""
        left, top, right, bottom = self.pixels(kind)
        width, height = self.size
        return Box((left / width, top / height, right / width, bottom / height), kind)


def make_scene(seed: int, index: int, lesions: Sequence[int] = (2,)) -> Scene:
    """Return the scene number ``index`` of a seed; it depends on the arguments alone.

    Args:
        seed: of the set.
        index: number of the scene, from 0.
        lesions: how many lesions a scene has, 1 to 3, so that a kind is absent; of several numbers each is equally
            likely.

    Raises:
        UserError: for another number of lesions.
    """
    check_lesions(lesions)
    stream = random_stream(seed, index, _TRUTH)
    modality = choose(stream, MODALITIES)
    count = lesions[int(stream.integers(len(lesions)))]
    kinds = [KINDS[number] for number in sorted(stream.permutation(len(KINDS))[:count].tolist())]
    while True:
        attributes = [_attributes(kind, stream) for kind in kinds]
        centres = _find_room([_reach(values) for values in attributes], stream)
        if centres is not None:
            made = zip(attributes, centres, strict=True)
            return Scene(seed, index, modality, tuple(Lesion(centre=centre, **values) for values, centre in made))


def draw_scene(scene: Scene, size: Size) -> DrawnScene:
    """Draw a scene at any resolution.

    Args:
        scene: what to draw.
        size: width and height in pixels. Lesions keep their form where these differ, and the anatomy is stretched.
    """
    texture = random_stream(scene.seed, scene.index, _TEXTURE)
    image, masks = draw_lesions(scene.modality, texture, scene.lesions, size)
    kinds = [lesion.kind for lesion in scene.lesions]
    return DrawnScene(scene, size, image, dict(zip(kinds, masks, strict=True)))


def check_lesions(lesions: Sequence[int]) -> None:
    """Check the numbers of lesions that scenes are to have.

    Raises:
        UserError: if one is not 1 to 3, or there is none.
    """
    if not lesions or not all(1 <= count < len(KINDS) for count in lesions):
        given = ", ".join(str(count) for count in lesions) or "none"
        raise UserError(f"lesions: a scene has 1 to {len(KINDS) - 1} lesions of {len(KINDS)} kinds, not {given}")


def join_words(words: Sequence[str]) -> str:
    """Return words as a list in a sentence: "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _attributes(kind: str, stream: np.random.Generator) -> dict[str, Any]:
    size = choose(stream, SIZES)
    return {
        "kind": kind,
        "size": size,
        "brightness": choose(stream, BRIGHTNESSES),
        "outline": choose(stream, OUTLINES),
        "radius": float(RADII[size] * stream.uniform(1 - RADIUS_JITTER, 1 + RADIUS_JITTER)),
        "rotation": float(stream.uniform(-0.1, 0.1)),
    }


def _reach(attributes: dict[str, Any]) -> float:
    return attributes["radius"] * (REACH if attributes["outline"] == "spiky" else _SMOOTH_REACH)


def _find_room(reaches: Sequence[float], stream: np.random.Generator) -> list[tuple[float, float]] | None:
    """Draw centres that keep circles of these radii inside the field and apart; None where there is hardly room."""
    radii = np.array(reaches)
    apart = radii[:, None] + radii + GAP  # [n, n]
    for _ in range(_ATTEMPTS):
        angle, away = stream.uniform(0, 2 * np.pi, len(radii)), np.sqrt(stream.uniform(0, 1, len(radii)))
        centres = (away * (FIELD - radii))[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)  # [n, 2]
        distances = np.hypot(*(centres[:, None] - centres).transpose(2, 0, 1))
        if (distances >= apart)[~np.eye(len(radii), dtype=bool)].all():
            return [(float(x + 0.5), float(y + 0.5)) for x, y in centres]
    return None
