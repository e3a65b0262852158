"""Captions: the first answer of each conversation is the reference (medcap's ``test_metrics``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medcap.data.conversations import Record, read_record
from medcap.datasets.rows import read_rows
from medcap.errors import UserError
from medcap.evaluation.metrics.caption import BLEU_ORDERS, bleu_of_sums, caption_metrics
from medcap.evaluation.statistics import bootstrap_interval, bootstrap_of_sums
from medcap.evaluation.tasks.base import ImageFinder, Row, Task, checked_rows, image_reader, message_text

# The set's score is the mean of the rows' for these alone.
_MEANS = ("ROUGE_L", "CIDEr", "SPICE")


class CaptionTask(Task):
    """Conversations as in training: everything before the first assistant turn is asked, that turn is the reference.

    Example:
        >>> task = CaptionTask()
        >>> rows = task.load("datasets/medcap/vqarad_test.json")
        >>> metrics, row_scores = task.score(rows, captions)
    """

    name = "caption"
    protocol = "coco_caption"
    protocol_description = (
        "the COCO caption metrics of pycocoevalcap (PTB tokens, lower case, punctuation removed) against one"
        " reference a row; an empty caption scores 0 and is counted"
    )
    headline = "CIDEr"

    def load(
        self, source: str | Path, conversation_style: str = "auto", image_roots: Sequence[str | Path] | None = None
    ) -> list[Row]:
        """Read conversations; see :meth:`Task.load`."""
        path = Path(source)
        find = ImageFinder(image_reader(path, image_roots))
        rows = []
        for index, value in read_rows(path):
            find.problem = None
            record = read_record(value, path, index, find, conversation_style)
            rows.append(_row(record, find.problem))
        return checked_rows(rows, path)

    def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Score captions; see :meth:`Task.score`.

        The intervals of BLEU draw rows and sum their counts anew; those of ROUGE_L, CIDEr and SPICE are of the
        rows' mean, with CIDEr's document frequencies kept. METEOR's corpus formula is Java's alone, so it has none.
        """
        result = caption_metrics(list(predictions), [list(row.references) for row in rows])
        intervals = {
            f"Bleu_{order}": bootstrap_of_sums(result.bleu_counts, partial(bleu_of_sums, order=order)).as_dict()
            for order in range(1, BLEU_ORDERS + 1)
        }
        intervals |= {name: bootstrap_interval(result.rows[name]).as_dict() for name in _MEANS if name in result.rows}
        row_scores = [
            {"id": row.id, **{name: values[index] for name, values in result.rows.items()}}
            for index, row in enumerate(rows)
        ]
        metrics = {"scores": result.scores, "intervals": intervals, "tables": {}, "notices": result.notices}
        return metrics, row_scores


def _row(record: Record, problem: str | None) -> Row:
    roles = [message.role for message in record.messages]
    if "assistant" not in roles:
        raise UserError(f"{record.name}: there is no assistant turn to compare with")
    answer = roles.index("assistant")
    prompt = record.messages[:answer]
    if not prompt:
        raise UserError(f"{record.name}: the assistant speaks first, so there is nothing to ask")
    reference = message_text(record.messages[answer])
    if not reference:
        raise UserError(f"{record.name}: the first assistant turn, which is the reference, is empty")
    row = Row(str(record.index), prompt, [reference], problem=problem)
    return replace(row, image=Path(row.images[0])) if row.images else row
