"""MedPLIB's measures of segmentation.

Source: ShawnHuang497/MedPLIB, ``model/eval/vqa_infer.py`` (IoU, Dice) and ``train_ds_medplib.py`` (gIoU, cIoU).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from medcap.errors import UserError
from medcap.scoring.metrics.masks import overlap, resize_nearest
from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.grounding.modalities import image_prefix
from medcap.scoring.protocols.segmentation.notices import MaskNotes
from medcap.scoring.protocols.summary import check_answers, count_notice, row_means
from medcap.scoring.question import Answer, Question
from medcap.scoring.replies.mask_reply import NOWHERE, asks_for_masks, predicted_masks, reference_masks, short_reason
from medcap.scoring.statistics import bootstrap_of_ratios

_NONE: dict[str, Any] = {"iou": 0.0, "dice": 0.0, "giou": 0.0, "intersection": 0, "union": 0}
_DECIMALS = 6  # of the scores of a modality


class MedplibSeg(Protocol):
    """MedPLIB's scores of masks.

    Of each row, with I the pixels of the intersection and U those of the union of its first two masks:

    - ``iou`` = I / U, and ``dice`` = 2 iou / (1 + iou); ``miou`` and ``mdice`` are their means over rows, and
      ``per_modality.<prefix>.miou`` and ``.mdice`` those over the rows whose image's name begins with this prefix and
      ``_``, rounded to six decimals;
    - ``giou`` is the mean of I / (U + 1e-5), where an empty union counts 1 (the published program also divides by
      n + 1e-5 in place of n);
    - ``ciou`` = sum of I / (sum of U + 1e-10).

    Where both masks are empty, the published program of the first two ends with an error; here they are 0.

    The published program has a mask for every row, whatever the words. Here a row without one has an empty mask, and a
    row without an answer, or with a mask that cannot be read, counts 0.
    """

    name = "medplib_seg"
    description = (
        "MedPLIB's vqa_infer.py and train_ds_medplib.py: IoU of the first mask of a row, Dice as 2 IoU / (1 + IoU),"
        " their means over rows and by the first part of the image's name; gIoU as the mean of I / (U + 1e-5), 1 where"
        " both masks are empty; cIoU as the sum of intersections by the sum of unions; masks are compared as they are"
        " given (published, a mask is where the sigmoid is above 0.1); intervals draw patients where they are known,"
        " otherwise images"
    )
    headline = "miou"
    scores_masks = True

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score masks; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        notes = MaskNotes(answers=[answer for answer in answers if asks_for_masks(answer.question)])
        if not notes.answers:
            raise UserError(f"{self.name}: no row asks for a mask: give rows 'reference_mask' or 'reference_masks'")
        asked, several, empty = [], [], []
        rows = []
        for answer in answers:
            values: dict[str, Any] = {"correct": None, "value": None}
            if asks_for_masks(answer.question):
                values = _values(answer, notes, several, empty)
                asked.append(values)
            rows.append({"question_id": answer.question.id, **values})
        clusters = [answer.question.cluster for answer in notes.answers]
        scores, intervals = row_means(asked, {"miou": "iou", "mdice": "dice", "giou": "giou"}, clusters)
        sums = [[row[key] for row in asked] for key in ("intersection", "union")]
        scores["ciou"] = sum(sums[0]) / (sum(sums[1]) + 1e-10)
        if any(sums[1]):
            intervals["ciou"] = bootstrap_of_ratios(sums[0], sums[1], clusters).as_dict()
        _add_modalities(scores, intervals, counts, asked, clusters)
        notices = notes.notices(answers)
        notices += count_notice("rows with several masks, of which this rule takes the first", several, notes.answers)
        notices += count_notice(
            "rows whose masks are both empty, where the published program ends: 0 for IoU and Dice, 1 for gIoU",
            empty,
            notes.answers,
        )
        return ProtocolScores(scores, intervals, rows, counts | notes.counts(), notices, clustered=True)


def _values(answer: Answer, notes: MaskNotes, several: list[Answer], empty: list[Answer]) -> dict[str, Any]:
    """Return the values of a row, and note what is special about it."""
    about = {"modality": modality(answer.question), "correct": None, "value": 0.0}
    try:
        wanted = reference_masks(answer.question)
    except UserError as error:
        notes.references.append((answer, short_reason(str(error))))
        return {**_NONE, **about}
    given = predicted_masks(answer)
    if len(wanted) > 1 or len(given) > 1:
        several.append(answer)
    reference = wanted[0].mask
    assert reference is not None, "a reference that cannot be read raises"
    if given and given[0].mask is None:
        notes.predictions.append((answer, given[0].trouble))
    elif not given and not answer.failed and reference.any():
        notes.silent.append(answer)
    failed = answer.failed or (bool(given) and given[0].mask is None)
    prediction = given[0].mask if given and given[0].mask is not None else NOWHERE
    if reference is NOWHERE:
        reference = np.zeros_like(prediction)
    elif prediction is NOWHERE:
        prediction = np.zeros_like(reference)
    if prediction.shape != reference.shape:
        notes.resized.append(answer)
        prediction = resize_nearest(prediction, reference.shape)
    common, union = overlap(reference, prediction)
    if not union and not failed:
        empty.append(answer)
    iou = common / union if union else 0.0
    giou = common / (union + 1e-5) if union else float(not failed)
    values = {"iou": iou, "dice": 2 * iou / (1 + iou), "giou": giou, "intersection": common, "union": union}
    return {**values, **about, "value": iou}


def modality(question: Question) -> str:
    """Return the first part of the image's file name, as published; "other" of a name without ``_``."""
    name = next((path.replace("\\", "/").rpartition("/")[2] for path in question.image_paths), "")
    return image_prefix(question).replace(".", "_") or "other" if "_" in name else "other"


def _add_modalities(
    scores: dict[str, float],
    intervals: dict[str, dict[str, Any]],
    counts: dict[str, int],
    rows: Sequence[dict[str, Any]],
    clusters: Sequence[Hashable],
) -> None:
    for name in sorted({row["modality"] for row in rows}):
        kept = [index for index, row in enumerate(rows) if row["modality"] == name]
        own = [rows[index] for index in kept]
        means, widths = row_means(own, {"miou": "iou", "mdice": "dice"}, [clusters[index] for index in kept])
        for key, value in means.items():
            scores[f"per_modality.{name}.{key}"] = round(value, _DECIMALS)
            intervals[f"per_modality.{name}.{key}"] = widths[key]
        counts[f"per_modality.{name}.n"] = len(kept)
