"""The masks that a question asks for and that an answer gives, drawn, and which of them belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medcap.data.boxes.box import Size
from medcap.data.regions.draw import draw_region, read_mask
from medcap.data.regions.region import MaskFile, Region, RunLength
from medcap.errors import UserError
from medcap.scoring.question import Answer, Question

NOWHERE = np.zeros((1, 1), bool)  # the mask of an absent object, of any size
_MOST_SHOWN = 200  # characters of a reason


@dataclass(frozen=True)
class Drawn:
    """A mask of a question or an answer.

    Attributes:
        mask: ``[H, W]`` bool, ``NOWHERE`` for an absent object; None where it cannot be read.
        label: what it shows, "" where that is not said.
        trouble: why it cannot be read.
    """

    mask: np.ndarray | None
    label: str = ""
    trouble: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it can be read and no pixel is inside."""
        return self.mask is not None and not self.mask.any()


def asks_for_masks(question: Question) -> bool:
    """Return whether a question asks for masks; one that cannot be asked does, if it may be such a question."""
    words = question.options or question.answer_type
    return question.masks is not None or (question.problem is not None and not words and question.boxes is None)


def reference_masks(question: Question) -> list[Drawn]:
    """Draw the masks that a question asks for.

    Args:
        question: one that :func:`asks_for_masks`.

    Returns:
        At least one; where none is asked for, an absent object without a label.

    Raises:
        UserError: if one cannot be read, or the question could not be asked.
    """
    if question.problem is not None or question.masks is None:
        raise UserError(question.problem or "it asks for no mask")
    masks = question.masks or (None,)
    labels = question.mask_labels or [region.label if region else "" for region in masks]
    return [
        Drawn(NOWHERE if region is None else _drawn(region, question.image_size), label)
        for region, label in zip(masks, labels, strict=True)
    ]


def predicted_masks(answer: Answer) -> list[Drawn]:
    """Draw the masks that an answer gives.

    Args:
        answer: a mask of another size than the image keeps its size.

    Returns:
        The masks in their order, those that cannot be read among them.
    """
    bad = dict(answer.bad_masks)
    found = []
    for place, region in enumerate(answer.outputs.masks or ()):
        label = region.label if region else ""
        if place in bad:
            found.append(Drawn(None, label, short_reason(bad[place])))
            continue
        try:
            found.append(Drawn(NOWHERE if region is None else _drawn(region, answer.question.image_size, False), label))
        except UserError as error:
            found.append(Drawn(None, label, short_reason(str(error))))
    return found


def pair_masks(wanted: Sequence[Drawn], given: Sequence[Drawn]) -> list[tuple[Drawn | None, Drawn | None]]:
    """Pair the masks of a question with those of its answer.

    Where a label of the answer is one of the question's, masks belong together by their labels, and those without a
    label by their order. Otherwise all do by their order.

    Args:
        wanted: masks of the reference.
        given: masks of the answer.

    Returns:
        A pair for each of ``wanted`` in its order, with None where the answer has none; then one for each mask of the
        answer that is left, with None first.
    """
    partners: dict[int, int] = {}
    for number, mask in enumerate(given):
        name = class_name(mask.label)
        same = [place for place, one in enumerate(wanted) if class_name(one.label) == name and place not in partners]
        if name and same:
            partners[same[0]] = number
    named = bool(partners)
    used = set(partners.values())
    free = iter([place for place in range(len(wanted)) if place not in partners])
    for number, mask in enumerate(given):
        if number not in used and not (named and mask.label):
            place = next(free, None)
            if place is None:
                break
            partners[place] = number
    left = set(range(len(given))) - set(partners.values())
    pairs = [(one, given[partners[place]] if place in partners else None) for place, one in enumerate(wanted)]
    return [*pairs, *((None, given[number]) for number in sorted(left))]


def class_name(label: str) -> str:
    """Return a label without the differences that do not matter: case and spaces."""
    return " ".join(label.casefold().split())


def short_reason(reason: str) -> str:
    """Return why a mask cannot be read as part of a line: names of files may hold anything."""
    reason = " ".join(reason.split())
    return reason if len(reason) <= _MOST_SHOWN else f"{reason[: _MOST_SHOWN - 3]}..."


def _drawn(region: Region, size: Size | None, must_fit: bool = True) -> np.ndarray:
    shape = region.shape
    if isinstance(shape, RunLength | MaskFile) and (size is None or not must_fit):
        return read_mask(shape)
    if size is None:
        raise UserError("a box, a point or a polygon is drawn on its image: give the row 'image_size' [width, height]")
    return draw_region(region, size, may_be_empty=True)
