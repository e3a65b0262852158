"""ColonGPT's evaluator as published, and a strict form of it.

Source: ai4colonoscopy/IntelliScope, ``script/multimodal_benchmark/multimodal_evaluator.py``. A row is one of three
tasks: CLS (name the object), REG (name the object in a box) and REC (give the box of an object). Captions (CAP) have
no published measure.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from medcap.errors import UserError
from medcap.scoring.metrics.boxes import num_hits, overlaps, pair_sum
from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.exact import exact_match
from medcap.scoring.protocols.grounding.published_texts import published_prediction, published_reference
from medcap.scoring.protocols.grounding.replies import is_unparsed, unread_notices
from medcap.scoring.protocols.summary import (
    check_answers,
    count_notice,
    one_reference_notice,
    reasoning_notice,
    row_means,
)
from medcap.scoring.question import Answer, Question
from medcap.scoring.replies.box_reply import predicted_boxes, reference_boxes
from medcap.scoring.statistics import bootstrap_of_ratios

TASKS = ("CLS", "REG", "REC", "CAP")
_END = "<|endoftext|>"
_NUMBER = re.compile(r"<\s*(\d+)\s*>")
# The five templates of ColonINST's classification questions, and the five of its captions.
_CLASSIFY = re.compile(
    r"^(?:categorize|determine|identify|classify|assign) the (?:object|category of the object)", re.I
)
_DESCRIBE = re.compile(r"^(?:describe what|interpret what|detail the visual|explain the image|offer a thorough)", re.I)


class _ThreeTasks(Protocol):
    """What both forms share: which task a row is, and the means of each task."""

    headline = "overall"
    scores_boxes = True
    scores: ClassVar[tuple[str, ...]]  # the means over rows, by the names of their values

    @abstractmethod
    def words(self, answer: Answer) -> bool:
        """Return whether a CLS or REG answer is right."""

    @abstractmethod
    def boxes(self, answer: Answer) -> dict[str, float]:
        """Return the values of a REC answer; ``rec.mean_iou`` is its part of the headline, absent where it has none."""

    def finish(self, answers: Sequence[Answer], tasks: Sequence[str], result: ProtocolScores) -> None:
        """Add what is not a mean over rows."""

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score answers; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        tasks = [task_of(answer.question) for answer in answers]
        if not set(tasks) & set(TASKS[:3]):
            raise UserError(
                f"{self.name}: no row is of the task CLS, REG or REC (the first, {answers[0].question.id}, is of"
                f" {tasks[0] or 'none'}): give each row its 'task'"
            )
        rows = [self._row(answer, task) for answer, task in zip(answers, tasks, strict=True)]
        clusters = [answer.question.cluster for answer in answers]
        scores, intervals = row_means(rows, {**{name: name for name in self.scores}, self.headline: "value"}, clusters)
        counts |= {f"{task.lower()}.n": tasks.count(task) for task in TASKS if task in tasks}
        counts["clusters"] = len({one for one, row in zip(clusters, rows, strict=True) if row["value"] is not None})
        result = ProtocolScores(scores, intervals, rows, counts, _notices(answers, tasks), clustered=True)
        self.finish(answers, tasks, result)
        return result

    def _row(self, answer: Answer, task: str) -> dict[str, Any]:
        name = {"question_id": answer.question.id}
        if task in ("CLS", "REG"):
            right = self.words(answer)
            return {**name, f"{task.lower()}.accuracy": float(right), "correct": right, "value": float(right)}
        if task == "REC":
            values = self.boxes(answer)
            iou = values.get("rec.mean_iou")
            return {**name, **values, "correct": None if iou is None else iou > 0.5, "value": iou}
        return {**name, "correct": None, "value": None}


class ColonGpt(_ThreeTasks):
    """``multimodal_evaluator.py``, equal to it on any texts.

    - ``cls.accuracy``, ``reg.accuracy``: share of answers whose whole text, lower-cased and without ``<|endoftext|>``,
      equals the lower-cased reference; a full stop too many is wrong.
    - ``rec.mean_iou``: mean IoU with inclusive pixels (a side is x2 - x1 + 1). The numbers of a text are those in
      ``<..>``; where either side has not exactly four, the IoU is 0. Swapped corners are taken as they stand.
      Boxes that are fields of a row without words are written as ColonINST has them.
    - ``rec.precision``: share of answers with IoU > 0.5.
    - ``rec.recall``: the same divided by 4, for it is published as hits over the *numbers* of a box; at most 0.25.
    - ``overall``: mean over rows of accuracy and IoU; it is not published.
    """

    name = "colongpt"
    description = (
        "ColonGPT's multimodal_evaluator.py: CLS and REG are right when the whole lower-cased text equals the"
        " reference; REC is the IoU with inclusive pixels, 0 unless both texts have exactly four numbers <..>; the"
        " published recall divides by four numbers; overall, the mean over rows of accuracy and IoU, is not published;"
        " intervals draw patients where they are known, otherwise images"
    )
    scores = ("cls.accuracy", "reg.accuracy", "rec.mean_iou", "rec.precision", "rec.recall")

    def words(self, answer: Answer) -> bool:
        """Equality of the whole text; see :class:`_ThreeTasks`."""
        return _published_text(answer.prediction) == answer.question.references[0].lower()

    def boxes(self, answer: Answer) -> dict[str, float]:
        """Inclusive pixels; see :class:`_ThreeTasks`."""
        overlap = inclusive_iou(_answered(answer), _asked(answer.question))
        hit = float(overlap > 0.5)
        return {"rec.mean_iou": overlap, "rec.precision": hit, "rec.recall": hit / 4}

    def finish(self, answers: Sequence[Answer], tasks: Sequence[str], result: ProtocolScores) -> None:
        """Divide the recall's interval as the recall, and count misses that the rule does not tell of."""
        if "rec.precision" in result.intervals:
            own = result.intervals["rec.precision"]
            # An interval of the quarters themselves would be Wilson's of 0 and 1 where no hit is: above 0.25.
            result.intervals["rec.recall"] = {**own, "low": own["low"] / 4, "high": own["high"] / 4}
        asked = [answer for answer, task in zip(answers, tasks, strict=True) if task == "REC"]
        unparsed = [answer for answer in asked if len(_answered(answer)) != 4]
        if asked:
            result.counts["rec.unparsed"] = len(unparsed)
        result.notices += count_notice("REC answers without exactly four numbers, whose IoU is 0", unparsed, asked)
        broken = [answer for answer in asked if len(_asked(answer.question)) != 4]
        result.notices += count_notice(
            "REC references without exactly four numbers, whose IoU is 0 whatever is answered", broken, asked
        )
        result.notices += one_reference_notice(answers) + reasoning_notice(answers, published=True)


class ColonGptStrict(_ThreeTasks):
    """ColonGPT's measures without their defects.

    - ``cls.accuracy``, ``reg.accuracy``: as in the protocol ``exact``.
    - ``rec.mean_iou``: as in the protocol ``boxes``: continuous coordinates, any notation, one-to-one pairs, divided by
      the larger number of boxes of the two sides.
    - ``rec.precision``: boxes of the answers that have a partner with IoU > 0.5, divided by all of them, those that
      cannot be read included.
    - ``rec.recall``: the same hits divided by the boxes of the references. A row whose object is absent counts for the
      precision only.
    - ``overall``: mean over rows of accuracy and IoU.
    """

    name = "colongpt_strict"
    description = (
        "ColonGPT's measures made strict: CLS and REG as in exact; REC with continuous IoU, one-to-one pairs, answers"
        " that cannot be read as misses, precision over the boxes given and recall over the boxes asked for (IoU >"
        " 0.5); overall is the mean over rows of accuracy and IoU; intervals draw patients where they are known,"
        " otherwise images"
    )
    scores = ("cls.accuracy", "reg.accuracy", "rec.mean_iou")

    def words(self, answer: Answer) -> bool:
        """Return whether the texts are equal after a light normalisation; see :class:`_ThreeTasks`."""
        return exact_match(answer.prediction.replace(_END, ""), answer.question.references)

    def boxes(self, answer: Answer) -> dict[str, float]:
        """Continuous coordinates; see :class:`_ThreeTasks`."""
        wanted, reply = reference_boxes(answer.question) or (), predicted_boxes(answer)
        table = overlaps(wanted, reply.boxes)
        overlap = {"rec.mean_iou": pair_sum(table) / max(len(wanted), reply.given)} if wanted else {}
        return {
            **overlap,
            "rec.hits": float(num_hits(table, 0.5, strict=True)),
            "rec.given": float(reply.given),
            "rec.asked": float(len(wanted)),
        }

    def finish(self, answers: Sequence[Answer], tasks: Sequence[str], result: ProtocolScores) -> None:
        """Add the ratios of boxes; see :class:`_ThreeTasks`."""
        asked = [index for index, task in enumerate(tasks) if task == "REC"]
        hits = [result.rows[index]["rec.hits"] for index in asked]
        clusters = [answers[index].question.cluster for index in asked]
        for name, below in (("rec.precision", "rec.given"), ("rec.recall", "rec.asked")):
            numbers = [result.rows[index][below] for index in asked]
            if sum(numbers):
                interval = bootstrap_of_ratios(hits, numbers, clusters)
                result.scores[name] = interval.value
                result.intervals[name] = interval.as_dict()
        result.drop_empty_intervals()
        replies = [(answers[index], predicted_boxes(answers[index])) for index in asked]
        if asked:
            result.counts["rec.unparsed"] = sum(
                is_unparsed(reply, reference_boxes(answer.question) or ()) for answer, reply in replies
            )
        absent = [answers[index] for index in asked if "rec.mean_iou" not in result.rows[index]]
        result.notices += count_notice(
            "REC rows without a box in their reference, whose answers count for the precision only",
            absent,
            [answer for answer, _ in replies],
        )
        result.notices += unread_notices(replies) + reasoning_notice(answers)


def task_of(question: Question) -> str:
    """Return the task of a row.

    Args:
        question: its ``task`` counts; without it, the reference and ColonINST's templates tell.

    Returns:
        One of ``TASKS``, or another name that the row has; "" where it cannot be told.
    """
    named = question.meta.get("task", "").strip().upper()
    if named:
        return named
    if question.boxes or len(_numbers(question.references[0])) == 4:
        return "REC"
    text = question.text.strip()
    if len(_numbers(text)) == 4:
        return "REG"
    return "CLS" if _CLASSIFY.match(text) else "CAP" if _DESCRIBE.match(text) else ""


def inclusive_iou(first: Sequence[int], second: Sequence[int]) -> float:
    """IoU of two boxes whose right and bottom pixels belong to them, as ColonGPT's evaluator computes it.

    Args:
        first: numbers of a text; x1, y1, x2, y2 where they are four.
        second: the same.

    Returns:
        0 where either side has not exactly four numbers, or where the denominator is 0.
    """
    if len(first) != 4 or len(second) != 4:
        return 0.0
    width = max(0, min(first[2], second[2]) - max(first[0], second[0]) + 1)
    height = max(0, min(first[3], second[3]) - max(first[1], second[1]) + 1)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (first, second)]
    union = sum(areas) - width * height
    return width * height / union if union else 0.0


def _answered(answer: Answer) -> list[int]:
    return _numbers(_published_text(published_prediction(answer, "coloninst")))


def _asked(question: Question) -> list[int]:
    return _numbers(published_reference(question, "coloninst"))


def _published_text(prediction: str) -> str:
    return prediction.lower().replace(_END, "")


def _numbers(text: str) -> list[int]:
    # Python reads no number of more than 4,300 digits; as a miss it costs only its own row.
    return [int(digits[:4000]) for digits in _NUMBER.findall(text)]


def _notices(answers: Sequence[Answer], tasks: Sequence[str]) -> list[str]:
    rows = list(zip(answers, tasks, strict=True))
    told = [answer for answer, task in rows if task in TASKS and not answer.question.meta.get("task", "").strip()]
    lines = count_notice("rows without a 'task', taken from their reference and question", told, answers)
    captions = [answer for answer, task in rows if task == "CAP"]
    lines += count_notice("captions (CAP), which have no measure here: use coco", captions, answers)
    other = [answer for answer, task in rows if task not in TASKS]
    return lines + count_notice(
        "rows in no denominator, because their task is not CLS, REG, REC or CAP", other, answers
    )
