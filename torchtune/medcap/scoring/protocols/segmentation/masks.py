"""The strict protocol ``masks``: none, one or many masks, with every answer in the denominator."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from medcap.errors import UserError
from medcap.scoring.metrics.masks import dice_and_iou, hausdorff_95, resize_nearest
from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.segmentation.notices import MaskNotes
from medcap.scoring.protocols.summary import check_answers, count_notice, row_means
from medcap.scoring.question import Answer
from medcap.scoring.replies.mask_reply import (
    NOWHERE,
    Drawn,
    asks_for_masks,
    class_name,
    pair_masks,
    predicted_masks,
    reference_masks,
    short_reason,
)
from medcap.scoring.statistics import NUMBER, bootstrap_of_ratios

_OBJECT_SCORES = {
    "mean_dice_present": "present_dice",
    "mean_iou_present": "present_iou",
    "hd95": "hd95",
    "false_positive_rate": "false_positive",
}
_RIGHT = 0.5  # least IoU of each object of a right answer


class Masks(Protocol):
    """Overlap of masks, object by object, at the size of the reference.

    The masks of an answer are paired with those of the reference by their labels where one of the answer's labels is
    among the reference's, otherwise in their order. Of each object:

    - there (the reference has a pixel): Dice = 2 I / (P + R) and IoU = I / U in pixels; 0 where the answer has no mask
      for it, an empty one, or one that cannot be read;
    - absent (no mask or an empty one): 1 where the answer has no pixel for it either, otherwise 0;
    - a mask of the answer that belongs to no object, unless it is empty: 0.

    A row without an answer, or whose reference cannot be read, counts 0. A mask of another size than its reference is
    resized to it by nearest neighbour and counted in ``resized``.

    - ``mean_dice``, ``mean_iou``: mean over rows of the mean over their objects;
    - ``mean_dice_present``, ``mean_iou_present``: mean over the objects that are there;
    - ``per_class.<label>.mean_dice``, ``.mean_iou``, ``.hd95``: over the objects of this label; ``mean_class_dice`` and
      ``mean_class_iou`` are the means of the classes;
    - ``hd95``: mean 95 % Hausdorff distance in pixels over the objects of which both sides have a mask; ``hd95_n`` says
      how many these are;
    - ``false_positive_rate``: share of absent objects for which the answer has a mask, readable or not.
    """

    name = "masks"
    description = (
        "masks of an answer are paired with those of the reference by label or order, and compared at the size of the"
        " reference: mean Dice and IoU over rows, over the objects that are there and by class; 1 where both sides are"
        " empty, 0 where one is, where a mask is missing or cannot be read, and for a mask too many; 95 % Hausdorff"
        " distance in pixels; the share of absent objects for which a mask is given; intervals draw patients where they"
        " are known, otherwise images"
    )
    headline = "mean_dice"
    scores_masks = True

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score masks; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        notes = MaskNotes(answers=[answer for answer in answers if asks_for_masks(answer.question)])
        if not notes.answers:
            raise UserError(f"{self.name}: no row asks for a mask: give rows 'reference_mask' or 'reference_masks'")
        rows: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        owners: list[Hashable] = []
        more: list[Answer] = []
        for answer in answers:
            values: dict[str, Any] = {"correct": None, "value": None}
            if asks_for_masks(answer.question):
                found = _objects(answer, notes)
                asked = [one for one in found if one["label"] is not None]
                if len(asked) < len(found):
                    more.append(answer)
                objects += asked
                owners += [answer.question.cluster] * len(asked)
                values = _row(found)
            rows.append({"question_id": answer.question.id, **values})
        clusters = [answer.question.cluster for answer in answers]
        names = {name: name for name in ("mean_dice", "mean_iou")}
        scores, intervals = row_means(rows, names, clusters)
        parts = [row_means(objects, _OBJECT_SCORES, owners, {"hd95": NUMBER}), _by_class(objects, owners, counts)]
        for part_scores, part_intervals in parts:
            scores |= part_scores
            intervals |= part_intervals
        counts |= notes.counts()
        counts |= {
            "present": sum(one["present_dice"] is not None for one in objects),
            "absent": sum(one["false_positive"] is not None for one in objects),
            "hd95_n": sum(one["hd95"] is not None for one in objects),
        }
        notices = notes.notices(answers)
        notices += count_notice("answers with masks that belong to no object of the row", more, notes.answers)
        return ProtocolScores(scores, intervals, rows, counts, notices, clustered=True)


def _row(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the values of a row from those of its objects."""

    def mean(key: str) -> float | None:
        values = [one[key] for one in objects if one[key] is not None]
        return sum(values) / len(values) if values else None

    values: dict[str, Any] = {
        "mean_dice": mean("dice"),
        "mean_iou": mean("iou"),
        "hd95": mean("hd95"),
        "false_positive_rate": mean("false_positive"),
    }
    values = {name: value for name, value in values.items() if value is not None}
    return {**values, "correct": all(one["iou"] >= _RIGHT for one in objects), "value": values["mean_dice"]}


def _objects(answer: Answer, notes: MaskNotes) -> list[dict[str, Any]]:
    """Return the values of each object of a row, and of each mask that belongs to none, whose label is None."""
    try:
        wanted = reference_masks(answer.question)
    except UserError as error:
        notes.references.append((answer, short_reason(str(error))))
        labels = answer.question.mask_labels or ("",)
        return [_object(label, 0.0, 0.0, present=True) for label in labels]
    given = predicted_masks(answer)
    bad = [one.trouble for one in given if one.mask is None]
    if bad:
        notes.predictions.append((answer, bad[0]))
    objects, silent, resized = [], False, False
    for reference, prediction in pair_masks(wanted, given):
        if reference is None:
            if prediction is not None and not prediction.is_empty:
                objects.append(_object(None, 0.0, 0.0))
            continue
        silent |= prediction is None and not reference.is_empty
        values, changed = _compare(reference, prediction, answer.failed)
        objects.append(values)
        resized |= changed
    if silent and not answer.failed:
        notes.silent.append(answer)
    if resized:
        notes.resized.append(answer)
    return objects


def _compare(reference: Drawn, prediction: Drawn | None, failed: bool) -> tuple[dict[str, Any], bool]:
    """Return the values of an object, and whether its mask was resized."""
    assert reference.mask is not None, "a reference that cannot be read raises"
    if reference.is_empty:
        nothing = prediction is None or prediction.is_empty
        value = float(nothing and not failed)
        return _object(reference.label, value, value, false_positive=float(not nothing)), False
    if prediction is None or prediction.mask is None or prediction.mask is NOWHERE:
        return _object(reference.label, 0.0, 0.0, present=True), False
    mask = resize_nearest(prediction.mask, reference.mask.shape)
    changed = mask is not prediction.mask
    distance = hausdorff_95(reference.mask, mask) if mask.any() else None
    dice, iou = dice_and_iou(reference.mask, mask)
    return _object(reference.label, dice, iou, distance, present=True), changed


def _object(
    label: str | None,
    dice: float,
    iou: float,
    hd95: float | None = None,
    present: bool = False,
    false_positive: float | None = None,
) -> dict[str, Any]:
    return {
        "label": label,
        "dice": dice,
        "iou": iou,
        "hd95": hd95,
        "present_dice": dice if present else None,
        "present_iou": iou if present else None,
        "false_positive": false_positive,
    }


def _by_class(
    objects: Sequence[dict[str, Any]], owners: Sequence[Hashable], counts: dict[str, int]
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Return the scores of each label and the means over labels, and count its objects."""
    shown: dict[str, str] = {}
    for one in objects:
        if key := class_name(one["label"]):
            shown.setdefault(key, one["label"].strip().replace(".", "_"))
    scores: dict[str, float] = {}
    intervals: dict[str, dict[str, Any]] = {}
    classes = [class_name(one["label"]) for one in objects]
    for key, name in shown.items():
        kept = [index for index, own in enumerate(classes) if own == key]
        names = {
            f"per_class.{name}.{score}": of
            for score, of in (("mean_dice", "dice"), ("mean_iou", "iou"), ("hd95", "hd95"))
        }
        part = row_means(
            [objects[index] for index in kept],
            names,
            [owners[index] for index in kept],
            {f"per_class.{name}.hd95": NUMBER},
        )
        scores |= part[0]
        intervals |= part[1]
        counts[f"per_class.{name}.n"] = len(kept)
    labelled = [index for index, own in enumerate(classes) if own]
    for score, of in (("mean_class_dice", "dice"), ("mean_class_iou", "iou")):
        if labelled:
            values = np.array([objects[index][of] for index in labelled])
            groups = [classes[index] for index in labelled]
            mean = bootstrap_of_ratios(values, np.ones(len(values)), [owners[index] for index in labelled], groups)
            scores[score], intervals[score] = mean.value, mean.as_dict()
    return scores, intervals
