"""The masks of a task's page: those of each row, and how many objects reach which Dice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medcap.data.regions.region import Region
from medcap.errors import UserError
from medcap.evaluation.scored import Scored
from medcap.evaluation.threshold_charts import Overlaps, by_name, threshold_charts
from medcap.report.charts import LineChart
from medcap.report.drawn_masks import ObjectMasks, RowMasks
from medcap.scoring.metrics.masks import dice_and_iou, resize_nearest
from medcap.scoring.question import Answer, Question
from medcap.scoring.replies.mask_reply import (
    NOWHERE,
    Drawn,
    asks_for_masks,
    pair_masks,
    predicted_masks,
    reference_masks,
)

_RULE = (
    "Masks of answer and reference are paired by their labels or their order; where the answer has none, Dice is 0."
    " At 0: any overlap."
)
_ALL = "all objects"


@dataclass(frozen=True)
class ObjectResult:
    """One object of a row, or a mask of the answer that belongs to none.

    Attributes:
        masks: what is drawn and said of it.
        dice: Dice of its masks; 1 where both sides have none.
        iou: IoU of its masks.
        present: whether the reference has a pixel.
    """

    masks: ObjectMasks
    dice: float
    iou: float
    present: bool


@dataclass(frozen=True)
class MaskResult:
    """The masks of a row and of an answer to it.

    Attributes:
        objects: those of the reference, then the masks of the answer that belong to none.
        question: the row.
    """

    objects: Sequence[ObjectResult]
    question: Question

    @property
    def dice(self) -> float:
        """Mean Dice of the objects, as the protocol ``masks`` has it."""
        return sum(one.dice for one in self.objects) / len(self.objects)

    @property
    def iou(self) -> float:
        """Mean IoU of the objects, as the protocol ``masks`` has it."""
        return sum(one.iou for one in self.objects) / len(self.objects)

    @property
    def drawn(self) -> RowMasks:
        """What is drawn over the images."""
        return RowMasks([one.masks for one in self.objects], self.iou, self.question.image_size)


def read_masks(rows: Sequence[Question], scored: Mapping[str, Scored]) -> dict[str, list[MaskResult | None]]:
    """Compare the masks of the run itself and of its controls with those of the rows.

    Args:
        rows: the questions.
        scored: answers of the run and of its controls by the names of their lines; a control may leave rows out.

    Returns:
        The masks of each answer under the same names, None for a row that asks for no mask or whose reference cannot be
        read; empty if no row has a reference mask.
    """
    if not any(any(row.masks or ()) for row in rows):
        return {}
    asked = {row.id: row for row in rows}
    # What a control asks is scored against the row as it is.
    return {
        name: [
            _result(answer)
            for answer in part.plan.answers([asked[entry["question_id"]] for entry in part.entries], part.entries)
        ]
        for name, part in scored.items()
    }


def mask_charts(results: Mapping[str, Sequence[MaskResult | None]]) -> list[LineChart]:
    """Draw the share of objects whose Dice reaches each threshold, of the objects that are there.

    Args:
        results: masks of each row of the run itself and of its controls, the run first, by the names of their lines.

    Returns:
        A chart of run and controls, one by class and one by modality; those that would repeat the first are left out.
    """
    if not results:
        return []
    known = {
        name: [one.dice for result in own if result is not None for one in result.objects if one.present]
        for name, own in results.items()
    }
    everything = next(iter(known.values()))
    by_class: dict[str, list[float]] = {}
    by_modality: dict[str, list[float]] = {}
    for result in next(iter(results.values())):
        for one in result.objects if result is not None else ():
            if one.present and one.masks.label:
                by_class.setdefault(one.masks.label, []).append(one.dice)
            if one.present and result is not None and result.question.meta.get("modality"):
                by_modality.setdefault(result.question.meta["modality"], []).append(one.dice)
    groups = [
        Overlaps("Objects by Dice threshold", known, f"{len(everything):,} objects that are there. {_RULE}"),
        by_name("The same by class", everything, by_class, "classes", _ALL),
        by_name("The same by modality", everything, by_modality, "modalities", _ALL),
    ]
    return threshold_charts(groups, "Dice threshold", "share of objects")


def _result(answer: Answer) -> MaskResult | None:
    question = answer.question
    if question.masks is None or not asks_for_masks(question):
        return None
    try:
        wanted = reference_masks(question)
    except UserError:
        return None
    given = predicted_masks(answer)
    regions = {id(one): region for one, region in zip(given, answer.outputs.masks or (), strict=True)}
    regions |= {id(one): region for one, region in zip(wanted, question.masks or (None,), strict=True)}
    return MaskResult(
        [
            _object(reference, prediction, regions, answer.failed)
            for reference, prediction in pair_masks(wanted, given)
            if reference is not None or (prediction is not None and not prediction.is_empty)
        ],
        question,
    )


def _object(
    reference: Drawn | None, prediction: Drawn | None, regions: Mapping[int, Region | None], failed: bool
) -> ObjectResult:
    expected, given = (None if one is None or one.is_empty else regions[id(one)] for one in (reference, prediction))
    label = reference.label if reference is not None else prediction.label if prediction is not None else ""
    missing = prediction is None or prediction.is_empty
    present = reference is not None and not reference.is_empty
    dice, iou = 0.0, 0.0
    if prediction is not None and prediction.mask is None:
        words, given = f"a mask that cannot be read: {prediction.trouble}", None
    elif reference is None:
        words = f"belongs to no object of the reference, {_pixels(prediction)}"
    elif not present and missing:
        dice = iou = float(not failed)
        words = "absent, and no answer" if failed else "absent, and the answer has none"
    elif not present:
        words = f"absent, but the answer has {_pixels(prediction)}"
    elif prediction is None:
        words = "no mask in the answer"
    elif missing:
        words = "absent, says the answer" if prediction.mask is NOWHERE else "an empty mask in the answer"
    else:
        assert reference.mask is not None and prediction.mask is not None
        dice, iou = dice_and_iou(reference.mask, resize_nearest(prediction.mask, reference.mask.shape))
        words = f"Dice {dice:.2f}, IoU {iou:.2f}"
    return ObjectResult(ObjectMasks(label, words, expected, given), dice, iou, present)


def _pixels(drawn: Drawn | None) -> str:
    count = 0 if drawn is None or drawn.mask is None else int(np.count_nonzero(drawn.mask))
    return f"{count:,} pixel{'' if count == 1 else 's'}"
