"""The boxes of a task's page: those of each row, and how many rows reach which IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medcap.data.boxes.box import Box
from medcap.errors import UserError
from medcap.evaluation.scored import Scored
from medcap.evaluation.threshold_charts import ALL_ROWS, Overlaps, by_name, threshold_charts
from medcap.report.charts import LineChart
from medcap.report.drawn_boxes import RowBoxes
from medcap.scoring.metrics.boxes import overlaps, pair_sum
from medcap.scoring.question import Answer, Question
from medcap.scoring.replies.box_reply import BoxReply, predicted_boxes, reference_boxes

# Largest share of the image's area that the reference boxes of a row have together.
SIZES = (("small, below 1 %", 0.01), ("medium, 1 to 10 %", 0.1), ("large, above 10 %", float("inf")))
_RULE = (
    "Boxes of answer and reference are paired one to one; the IoU of a row is the sum over the pairs, divided by the"
    " larger number of boxes. At 0: any overlap."
)


@dataclass(frozen=True)
class BoxResult:
    """The boxes of a row and of an answer to it.

    Attributes:
        wanted: reference boxes; empty where the object is absent.
        reply: boxes of the answer.
        drawable: whether they are in shares of the image, which takes its size where they are in pixels.
    """

    wanted: tuple[Box, ...]
    reply: BoxReply
    drawable: bool

    @property
    def overlap(self) -> float | None:
        """The row's IoU, as the protocol ``boxes`` has it; None where the object is absent."""
        if not self.wanted:
            return None
        return pair_sum(overlaps(self.wanted, self.reply.boxes)) / max(len(self.wanted), self.reply.given)

    @property
    def drawn(self) -> RowBoxes | None:
        """What is drawn over the images."""
        if not self.drawable:
            return None
        table = overlaps(self.wanted, self.reply.boxes)
        best = [float(column.max()) if self.wanted else None for column in table.T]
        remark = f"{self.reply.unread} more that cannot be read" if self.reply.unread else ""
        if self.wanted and self.reply.silent:
            remark = "the answer names no box"
        return RowBoxes(self.wanted, self.reply.boxes, best, remark)


def read_boxes(rows: Sequence[Question], scored: Mapping[str, Scored]) -> dict[str, list[BoxResult | None]]:
    """Read the boxes of the run itself and of its controls.

    Args:
        rows: the questions.
        scored: answers of the run and of its controls by the names of their lines; a control may leave rows out.

    Returns:
        The boxes of each answer under the same names, None for a row that asks for no box; empty if no row has a
        reference box.
    """
    asked = {row.id: row for row in rows}
    # What a control asks is scored against the row as it is.
    answers = {
        name: part.plan.answers([asked[entry["question_id"]] for entry in part.entries], part.entries)
        for name, part in scored.items()
    }
    wanted = {row.id: _wanted(row) for row in rows}
    if not any(wanted.values()):
        return {}
    return {name: [_result(answer, wanted[answer.question.id]) for answer in own] for name, own in answers.items()}


def _wanted(question: Question) -> tuple[Box, ...] | None:
    try:
        return reference_boxes(question)
    except UserError:
        return None


def _result(answer: Answer, wanted: tuple[Box, ...] | None) -> BoxResult | None:
    if wanted is None:
        return None
    reply = predicted_boxes(answer)
    within = all(0.0 <= edge <= 1.0 for box in (*wanted, *reply.boxes) for edge in box.edges)
    return BoxResult(wanted, reply, within)


def accuracy_charts(rows: Sequence[Question], results: Mapping[str, Sequence[BoxResult | None]]) -> list[LineChart]:
    """Draw the share of rows whose IoU reaches each threshold, of the rows whose object is there.

    Args:
        rows: the questions.
        results: boxes of each row of the run itself and of its controls, the run first, by the names of their lines.

    Returns:
        A chart of run and controls, one by modality and one by size; those that would repeat the first are left out.
    """
    if not results:
        return []
    known = {
        name: [overlap for result in own if result is not None and (overlap := result.overlap) is not None]
        for name, own in results.items()
    }
    everything = next(iter(known.values()))
    asked = [
        (row, result)
        for row, result in zip(rows, next(iter(results.values())), strict=True)
        if result and result.wanted
    ]
    by_size: dict[str, list[float]] = {name: [] for name, _ in SIZES}
    by_modality: dict[str, list[float]] = {}
    for (row, result), overlap in zip(asked, everything, strict=True):
        by_size[_size_of(result.wanted)].append(overlap)
        if row.meta.get("modality"):
            by_modality.setdefault(row.meta["modality"], []).append(overlap)
    groups = [
        Overlaps("Accuracy by IoU threshold", known, f"{len(asked):,} rows whose object is there. {_RULE}"),
        by_name("The same by modality", everything, by_modality, "modalities"),
        Overlaps(
            "The same by size",
            {ALL_ROWS: everything, **by_size},
            "Size: the share of the image that the reference boxes of a row have together.",
        ),
    ]
    return threshold_charts(groups, "IoU threshold")


def _size_of(boxes: Sequence[Box]) -> str:
    sides = [(right - left, bottom - top) for left, top, right, bottom in (box.edges for box in boxes)]
    area = sum(width * height for width, height in sides)
    return next(name for name, limit in SIZES if area <= limit)
