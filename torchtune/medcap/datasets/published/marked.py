"""What published sets of boxes say of an image: its objects by name, each with the boxes around it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medcap.data.boxes.box import Box, Size, four_numbers, same_shape
from medcap.errors import UserError

Edges = tuple[float, float, float, float]
SHARES: Size = (1, 1)
NOT_FOUR, NO_AREA, OUTSIDE = "a box is not four numbers", "a box has no area", "a box lies outside its image"
_OTHER_SHAPE = "the image has another shape than the file says"


@dataclass(frozen=True, slots=True)
class MarkedObject:
    """One object, or one finding in words.

    Attributes:
        phrase: what is asked for, such as ``left lung`` or a sentence of a report.
        boxes: left, top, right and bottom of each of its boxes, unchecked; in the unit of the image's ``frame``.
        kinds: what it counts as where an image is said not to show something; its phrase if empty.
    """

    phrase: str
    boxes: tuple[Any, ...]
    kinds: frozenset[str] = frozenset()

    @property
    def counts_as(self) -> frozenset[str]:
        """The kinds, or the phrase as the only one."""
        return self.kinds or frozenset((self.phrase,))


@dataclass(frozen=True, slots=True)
class MarkedImage:
    """An image and what is marked on it.

    Attributes:
        location: the file and row, for messages.
        names: names that the image may have.
        objects: the objects, each phrase once.
        frame: width and height that the boxes' numbers are relative to; ``SHARES`` for shares of the image, None for
            pixels of the image itself.
        patient: whose image it is, where that is known.
        others: kinds that the image shows, too, without a box.
        meta: further fields, such as ``modality``.
    """

    location: str
    names: tuple[str, ...]
    objects: tuple[MarkedObject, ...]
    frame: Size | None = None
    patient: str = ""
    others: frozenset[str] = frozenset()
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> frozenset[str]:
        """All kinds that the image shows."""
        return self.others.union(*(it.counts_as for it in self.objects))


def gather(marks: Iterable[tuple[str, Any]], kinds: Mapping[str, frozenset[str]] | None = None) -> tuple[Any, ...]:
    """Return objects from single boxes: those of one phrase belong to one object, and a box that is there twice is one.

    Args:
        marks: phrase and box, in the file's order.
        kinds: kinds of a phrase.
    """
    boxes: dict[str, list[Any]] = {}
    for phrase, box in marks:
        its = boxes.setdefault(phrase, [])
        its += [] if box in its else [box]
    known = kinds or {}
    return tuple(MarkedObject(phrase, tuple(its), known.get(phrase, frozenset())) for phrase, its in boxes.items())


def corners(numbers: Any) -> Any:
    """Return ``[x, y, width, height]`` as left, top, right and bottom; anything else unchanged."""
    found = four_numbers(numbers)
    if found is None:
        return numbers
    left, top, width, height = found
    return left, top, left + width, top + height


def plain_phrase(name: str) -> str:
    """Return a label as words of a sentence: ``Left_Lung`` is ``left lung``; ``CT`` and ``T9`` stay."""
    return " ".join(word.lower() if _is_word(word) else word for word in name.replace("_", " ").split())


def _is_word(text: str) -> bool:
    """Return whether it is a word with a capital, rather than an abbreviation or the number of a vertebra."""
    return text.istitle() and not any(map(str.isdigit, text))


def boxes_of(marked: MarkedObject, image: MarkedImage, size: Size | None) -> tuple[Box, ...]:
    """Return an object's boxes, checked and cut at the image's edges.

    Args:
        marked: of the image.
        image: what the numbers are relative to.
        size: of the image file; None where there is none to look at.

    Returns:
        In shares of the image; in the file's own numbers where neither size nor frame is known.

    Raises:
        UserError: if a box is unusable; a part of an object would be another object.
    """
    frame = image.frame or size
    if frame != SHARES and frame is not None and size is not None and not same_shape(frame, size):
        raise UserError(_OTHER_SHAPE)
    return tuple(_checked(edges, frame) for edges in marked.boxes)


def _checked(edges: Any, frame: Size | None) -> Box:
    found = four_numbers(edges)
    if found is None:
        raise UserError(NOT_FOUR)
    left, top, right, bottom = found
    if not (left < right and top < bottom):
        raise UserError(NO_AREA)
    if frame is None:
        return Box((left, top, right, bottom))
    width, height = frame
    left, right = max(0.0, left / width), min(1.0, right / width)
    top, bottom = max(0.0, top / height), min(1.0, bottom / height)
    if not (left < right and top < bottom):
        raise UserError(OUTSIDE)
    return Box((left, top, right, bottom))


def size_of_fields(width: Any, height: Any) -> Size | None:
    """Return the width and height that a file says an image has, as numbers or as text; None where it does not.

    A table that pandas has written with a gap in the column has ``2544.0``.
    """
    sides = []
    for side in (width, height):
        try:
            number = 0.0 if isinstance(side, bool) else float(side)
        except (TypeError, ValueError):
            return None
        if not number.is_integer() or number <= 0:
            return None
        sides.append(int(number))
    return sides[0], sides[1]


def check_pixels(images: Iterable[tuple[str, Iterable[Any]]], hint: str) -> None:
    """See that boxes are in pixels: were all of them shares of their images, each would be a box within a pixel.

    Args:
        images: of each image its place in words, and its boxes.
        hint: what to do.

    Raises:
        UserError: if there are boxes and no number of any is above 1.
    """
    first = ""
    for location, boxes in images:
        for found in filter(None, map(four_numbers, boxes)):
            first = first or location
            if max(found) > 1.0:
                return
    if first:
        raise UserError(
            f"{first}: no number of any box is above 1, so they are shares of the image and not pixels: {hint}"
        )


def numbers_of(fields: Sequence[str]) -> Any:
    """Return the fields of a table as numbers; unchanged where one is none."""
    try:
        return [float(field) for field in fields]
    except ValueError:
        return fields


class AbsentObjects:
    """Chooses objects that an image does not show among those of the other images.

    Args:
        images: all images of the set's part.
        number: how many to choose for an image.
        seed: decides the choice, together with the image's name.
    """

    def __init__(self, images: Iterable[MarkedImage], number: int, seed: int = 0) -> None:
        self._number, self._seed = number, seed
        self._kinds = {it.phrase: it.counts_as for image in images for it in image.objects}
        self._phrases = list(self._kinds)

    def of(self, image: MarkedImage) -> list[str]:
        """Return phrases, as many as wanted or as there are."""
        shown, chosen = image.shown, []
        # More is drawn than wanted, as what the image does show is left out; never thousands for a few.
        draws = min(len(self._phrases), 64 + 8 * self._number)
        for phrase in random.Random(f"{self._seed} {image.names[0]}").sample(self._phrases, draws):
            if len(chosen) < self._number and not shown & self._kinds[phrase]:
                chosen.append(phrase)
        return chosen
