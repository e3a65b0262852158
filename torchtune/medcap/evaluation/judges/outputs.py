"""The judged table in medcap 2024's form."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.data.json_text import parse_json
from medcap.evaluation.judges.base import file_name, judge_prompt
from medcap.files import write_text
from medcap.scoring.question import Answer

METRICS_FILE = "verdicts_metrics.json"
_COLUMNS = ("image", "instruction", "generated", "verdict", "question_id", "error")


def write_csv(
    folder: Path, stem: str, judge: str, answers: Sequence[Answer], rows: Sequence[Mapping[str, Any]], accuracy: float
) -> str:
    """Write ``{stem}-{judge}-{accuracy}.csv``, UTF-8 with a byte order mark.

    The first three columns and the accuracy to five digits are medcap 2024's (chat_llama3_quant.py, which names every
    judge "70B"): ``image``, ``instruction`` (the prompt that the judge read) and ``generated`` (its reply; empty for an
    answer that was not asked). Ours follow: ``verdict``, ``question_id``, ``error``.

    Args:
        folder: where to; the table that an earlier run left there under another accuracy is removed.
        stem: stem of the judged file's name.
        judge: its name.
        answers: what was judged.
        rows: what the verdicts file holds for each answer.
        accuracy: share of right answers.

    Returns:
        The file's name.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for answer, row in zip(answers, rows, strict=True):
        own = (row["reply"] or "", row["verdict"] or "", answer.question.id, row["error"] or "")
        writer.writerow([answer.question.image_cell, judge_prompt(answer), *own])
    start = f"{stem}-{file_name(judge)}-"
    name = f"{start}{round(accuracy, 5)}.csv"
    before = Path(metrics_before(folder).get("csv", "")).name
    write_text(folder / name, table.getvalue(), encoding="utf-8-sig")
    if before not in ("", name) and before.startswith(start):
        (folder / before).unlink(missing_ok=True)
    return name


def metrics_before(folder: Path) -> dict[str, Any]:
    """Return the content of an earlier run's verdicts_metrics.json in the folder; empty if there is none."""
    try:
        metrics = parse_json((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) else {}
