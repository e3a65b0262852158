"""BiRD's evaluators of visual grounding and of referred objects as published, and strict forms of them.

Source: ShawnHuang497/BiRD, ``tests/models/BiRD/eval_VG_score_modality.py``, ``eval_RO_score_modality.py`` and
``regularization.py``. A score is the mean over Med-GRIT's eight modalities.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medcap.errors import UserError
from medcap.scoring.metrics.boxes import num_hits, overlaps
from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.exact import exact_match
from medcap.scoring.protocols.grounding.modalities import MODALITIES, published_modality, row_modality
from medcap.scoring.protocols.grounding.published_texts import published_prediction, published_reference
from medcap.scoring.protocols.grounding.replies import is_unparsed, unread_notices
from medcap.scoring.protocols.summary import check_answers, count_notice, one_reference_notice, reasoning_notice
from medcap.scoring.question import Answer
from medcap.scoring.replies.box_reply import predicted_boxes, reference_boxes
from medcap.scoring.statistics import Interval, bootstrap_of_ratios

_BOX = re.compile(r"<box>(.*?)</box>")
_BARE_BOX = re.compile(r"\(\d+,\d+\),\(\d+,\d+\)")
_TINY = 1e-8  # the published guard against an empty modality
_IGNORED: dict[str, Any] = {"correct": None, "value": None}


def extract_information(text: str) -> str:
    """Cut a raw output of BiRD to its answer, as ``regularization.py`` does.

    Args:
        text: output; what follows the first ``.<|im_end|>`` is dropped, and of a text with two line breaks only what is
            between the first two stays.

    Returns:
        The answer, stripped.

    Example:
        >>> extract_information("assistant\\nThe answer\\nmore")
        'The answer'
    """
    before, mark, _ = text.partition(".<|im_end|>")
    text = (before + "." if mark else text).replace("<|im_end|>\n", "")
    parts = text.split("\n", 2)
    return (parts[1] if len(parts) == 3 else text).replace("<|endoftext|>", "").strip()


class BirdVg(Protocol):
    """``eval_VG_score_modality.py``: ``recall`` is the mean over the eight modalities of their recalls at IoU > 0.5.

    A modality's recall is its boxes that were found, divided by its boxes and 1e-8; without a row it is 0. A box of the
    reference is found when any box of the answer reaches it, so one box may be the answer to several. Boxes are what
    stands in ``<box>..</box>``, in an answer without any also bare ``(x1,y1),(x2,y2)``; boxes that are fields of a row
    without words are written as Med-GRIT has them. References without a box are passed over. One that holds something
    else in ``<box>..</box>`` ends the published program where the answer has a box; here the row is named.
    """

    name = "bird_vg"
    description = (
        "BiRD's eval_VG_score_modality.py: recall of the reference's boxes at IoU > 0.5, where one box of the answer"
        " may serve several; the mean over Med-GRIT's eight modalities, taken from the image's name, in which one"
        " without rows counts 0; intervals draw patients where they are known, otherwise images"
    )
    headline = "recall"
    scores_boxes = True

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score boxes; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        rows, modalities = [], []
        for answer in answers:
            targets = _BOX.findall(published_reference(answer.question, "qwen"))
            modalities.append(published_modality(answer.question, self.name) if targets else "")
            found = _found(targets, answer) if targets else 0
            values = _share(found, len(targets), modalities[-1]) if targets else _IGNORED
            rows.append({"question_id": answer.question.id, **values})
        result = _by_modality(self, answers, rows, modalities, counts, published=True)
        return replace(result, notices=result.notices + reasoning_notice(answers, published=True))


class BirdVgStrict(Protocol):
    """Recall as in BiRD, without its defects.

    Each box of the answer serves one box of the reference, in any notation or as a field of the row; the mean is over
    the modalities that have rows, by the row's ``modality`` or else the image's name. ``precision`` is the hits divided
    by the boxes given, those that cannot be read included, over all rows.
    """

    name = "bird_vg_strict"
    description = (
        "BiRD's recall made strict: one box of the answer serves one box of the reference (IoU > 0.5); the mean over"
        " the modalities that have rows; precision over all boxes that are given; intervals draw patients where they"
        " are known, otherwise images"
    )
    headline = "recall"
    scores_boxes = True

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score boxes; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        rows, modalities, replies, given = [], [], [], []
        for answer in answers:
            wanted = reference_boxes(answer.question)
            modalities.append(row_modality(answer.question) if wanted else "")
            values = _IGNORED
            if wanted:
                reply = predicted_boxes(answer)
                replies.append((answer, reply, wanted))
                given.append(reply.given)
                found = num_hits(overlaps(wanted, reply.boxes), 0.5, strict=True)
                values = _share(found, len(wanted), modalities[-1])
            rows.append({"question_id": answer.question.id, **values})
        counts["unparsed"] = sum(is_unparsed(reply, wanted) for _, reply, wanted in replies)
        result = _by_modality(self, answers, rows, modalities, counts, published=False)
        if sum(given):
            hits = [row["hits"] for row in rows if "hits" in row]
            precision = bootstrap_of_ratios(hits, given, [answer.question.cluster for answer, _, _ in replies])
            result.scores["precision"] = precision.value
            result.intervals["precision"] = precision.as_dict()
        notices = unread_notices([(answer, reply) for answer, reply, _ in replies]) + reasoning_notice(answers)
        return replace(result, notices=result.notices + notices)


class BirdRo(Protocol):
    """``eval_RO_score_modality.py``: right when every word of the reference is a substring of the answer."""

    name = "bird_ro"
    description = (
        "BiRD's eval_RO_score_modality.py: right when every space-separated word of the lower-cased reference is a"
        " substring of the lower-cased answer (so 'normal' holds 'or'); the mean over Med-GRIT's eight modalities,"
        " taken from the image's name, in which one without rows counts 0; intervals draw patients where they are"
        " known, otherwise images"
    )
    headline = "accuracy"

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score words; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        modalities = [published_modality(answer.question, self.name) for answer in answers]
        rows = []
        for answer, modality in zip(answers, modalities, strict=True):
            reply = extract_information(answer.prediction).lower()
            right = all(word in reply for word in answer.question.references[0].lower().split(" "))
            rows.append({"question_id": answer.question.id, **_right(right, modality)})
        result = _by_modality(self, answers, rows, modalities, counts, published=True)
        lucky = [answer for answer, row in zip(answers, rows, strict=True) if answer.failed and row["correct"]]
        notices = count_notice("rows without an answer that the published rule counts as right", lucky, answers)
        return replace(result, notices=[*result.notices, *notices, *reasoning_notice(answers, published=True)])


class BirdRoStrict(Protocol):
    """Equality as in ``exact``, and the mean over the modalities that have rows."""

    name = "bird_ro_strict"
    description = (
        "BiRD's accuracy made strict: equality as in exact instead of substrings; the mean over the modalities that"
        " have rows; intervals draw patients where they are known, otherwise images"
    )
    headline = "accuracy"

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score words; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        modalities = [row_modality(answer.question) for answer in answers]
        rows = [
            {
                "question_id": answer.question.id,
                **_right(exact_match(extract_information(answer.prediction), answer.question.references), modality),
            }
            for answer, modality in zip(answers, modalities, strict=True)
        ]
        result = _by_modality(self, answers, rows, modalities, counts, published=False)
        return replace(result, notices=result.notices + reasoning_notice(answers))


def _found(targets: Sequence[str], answer: Answer) -> int:
    """Return how many boxes of the reference the published program finds."""
    reply = extract_information(published_prediction(answer, "qwen"))
    given = _BOX.findall(reply) or _BARE_BOX.findall(reply)
    if not given:
        return 0
    wanted = [_floats(target) for target in targets]
    if any(numbers is None for numbers in wanted):
        raise UserError(
            f"row {answer.question.id}: its reference holds {answer.question.references[0][:60]!r}, in which a box is"
            " not made of numbers: correct or drop the row"
        )
    boxes = [_floats(text) for text in given]
    return sum(any(_reaches(box, target) for box in boxes) for target in wanted)


def _floats(text: str) -> list[float] | None:
    try:
        return [float(number) for number in text.replace("(", "").replace(")", "").split(",")]
    except ValueError:
        return None


def _reaches(box: list[float] | None, target: list[float] | None) -> bool:
    """Return whether the IoU is above 0.5, in continuous coordinates; corners are taken as they stand."""
    if box is None or target is None or len(box) != 4 or len(target) != 4:
        return False
    width = max(0.0, min(box[2], target[2]) - max(box[0], target[0]))
    height = max(0.0, min(box[3], target[3]) - max(box[1], target[1]))
    areas = sum((corners[2] - corners[0]) * (corners[3] - corners[1]) for corners in (box, target))
    union = areas - width * height
    return union != 0.0 and width * height / union > 0.5


def _share(found: int, asked: int, modality: str) -> dict[str, Any]:
    share = found / asked
    return {"hits": found, "targets": asked, "modality": modality, "correct": found == asked, "value": share}


def _right(right: bool, modality: str) -> dict[str, Any]:
    return {"hits": int(right), "targets": 1, "modality": modality, "correct": right, "value": float(right)}


def _by_modality(
    protocol: Protocol,
    answers: Sequence[Answer],
    rows: list[dict[str, Any]],
    modalities: Sequence[str],
    counts: dict[str, int],
    published: bool,
) -> ProtocolScores:
    """Return the hits divided by the targets of each modality, and the mean of these."""
    kept = [index for index, row in enumerate(rows) if "targets" in row]
    if not kept:
        raise UserError(f"{protocol.name}: no row asks for a box: the references hold none")
    clusters = [answer.question.cluster for answer in answers]
    drawn = [clusters[index] for index in kept]
    hits, targets = ([rows[index][name] for index in kept] for name in ("hits", "targets"))
    groups = [modalities[index] for index in kept]
    head = protocol.headline
    mean = bootstrap_of_ratios(hits, targets, drawn, groups)
    scores, intervals = {head: mean.value}, {head: mean.as_dict()}
    there = list(dict.fromkeys([*(name for name in MODALITIES if name in groups), *groups]))
    for name in there:
        own = [index for index, group in enumerate(groups) if group == name]
        part = bootstrap_of_ratios(
            [hits[index] for index in own], [targets[index] for index in own], [drawn[index] for index in own]
        )
        scores[f"{name}.{head}"], intervals[f"{name}.{head}"] = part.value, part.as_dict()
        counts |= {f"{name}.n": len(own), f"{name}.targets": sum(targets[index] for index in own)}
    notices = []
    if published:
        scores = _published_scores(scores, head, there, counts)
        share = len(there) / len(MODALITIES)
        intervals[head] = _scaled(mean, share).as_dict()
        missing = [name for name in MODALITIES if name not in there]
        if missing:
            notices = [f"modalities without a row, which count 0 in the mean over eight: {', '.join(missing)}"]
    counts["clusters"] = len(set(drawn))
    ignored = [answer for answer, row in zip(answers, rows, strict=True) if "targets" not in row]
    notices += count_notice("rows in no denominator, because they do not ask for a box", ignored, answers)
    if published:
        notices += one_reference_notice(answers)
    return ProtocolScores(scores, intervals, rows, counts, notices, clustered=True)


def _published_scores(
    scores: dict[str, float], head: str, there: Sequence[str], counts: dict[str, int]
) -> dict[str, float]:
    """Return the scores with the published guard in their denominators."""
    found = {name: round(scores[f"{name}.{head}"] * counts[f"{name}.targets"]) for name in there}
    parts = {name: found[name] / (counts[f"{name}.targets"] + _TINY) for name in there}
    total = sum(parts.get(name, 0.0) for name in MODALITIES) / len(MODALITIES)
    return {head: total, **{f"{name}.{head}": value for name, value in parts.items()}}


def _scaled(interval: Interval, factor: float) -> Interval:
    low, high = (None, None) if interval.ends is None else (end * factor for end in interval.ends)
    return replace(interval, value=interval.value * factor, low=low, high=high)
