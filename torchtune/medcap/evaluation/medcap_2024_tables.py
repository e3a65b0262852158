"""The CSV files that medcap 2024's users read, under their names and in their columns."""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.evaluation.scored import RunOptions, Scored
from medcap.legacy.prompt import plain_text, text_turns
from medcap.scoring.files import make_folder, write_text
from medcap.scoring.question import Question

if TYPE_CHECKING:
    from medcap.evaluation.tasks.base import Task

_COLUMNS = ("image", "instruction", "output", "generated")
_OPTION_COLUMNS = ("option_A", "option_B", "option_C", "option_D")


def write_medcap_tables(task: Task, rows: Sequence[Question], scored: Sequence[Scored], options: RunOptions) -> None:
    """Write a task's tables into ``output_dir``, UTF-8 with a byte order mark as medcap did.

    - caption: ``metrics-raw-{name}.csv``, and ``metrics-{name}.csv`` with a line ``score,0.123456`` for each of the
      protocol coco's;
    - vqarad: ``vqarad-{vqa_type}-raw-{name}.csv``, the closed questions (what medcap's judge reads);
    - omnimedvqa: ``omnimedvqa-{vqa_type}-raw-{name}.csv`` (``-{idx}_{chunk}`` behind the name of a part), and where an
      answer was mapped to an option the same with ``-{accuracy}`` and the columns predict_generated, predict, correct.

    Args:
        task: that was run.
        rows: what was asked.
        scored: its answers.
        options: of the run.
    """
    free = next((part for part in scored if part.plan.way.file == "predictions"), None)
    if task.name == "caption" and free is not None:
        _write(options, f"metrics-raw-{_name(task, options)}.csv", _raw(rows, free, options))
        for part in scored:
            if part.plan.protocol.name == "coco":
                scores = "".join(f"{key},{value:.6f}\n" for key, value in part.scores.scores.items())
                write_text(make_folder(Path(options.output_dir)) / f"metrics-{_name(task, options)}.csv", scores)
    elif task.name == "vqarad" and free is not None:
        closed = [place for place, row in enumerate(rows) if row.answer_type == "CLOSED"]
        table = _raw(rows, free, options)
        name = f"vqarad-{free.plan.way.name}-raw-{_name(task, options)}.csv"
        _write(options, name, [table[place] for place in closed])
    elif task.name == "omnimedvqa":
        part = next((part for part in scored if part.plan.way.name == "mapped_option"), free)
        if part is not None:
            _write_omnimedvqa(task, rows, part, options)


def _write_omnimedvqa(task: Task, rows: Sequence[Question], scored: Scored, options: RunOptions) -> None:
    mapped = scored.plan.way.name == "mapped_option"
    way, answer = (scored.plan.way.free, "free_answer") if mapped else (scored.plan.way, "prediction")
    stem = f"omnimedvqa-{way.name}-raw-{_name(task, options)}{options.folder.removeprefix(task.name)}"
    raw = []
    for row, entry in zip(rows, scored.entries, strict=True):
        line = _line(row, way.last_request(row, entry), entry.get(answer, ""), options)
        line |= dict.fromkeys(_OPTION_COLUMNS, "") | dict(zip(_OPTION_COLUMNS, row.options, strict=False))
        raw.append(line | {"modality_type": row.meta.get("modality", ""), "question_id": row.id})
    _write(options, f"{stem}.csv", raw)
    if not mapped:
        return
    table = []
    for line, row, entry, scores in zip(raw, rows, scored.entries, scored.scores.rows, strict=True):
        judged = {"predict_generated": entry["prediction"], "predict": _letter(row, scored, scores["choice"])}
        table.append(line | judged | {"correct": int(bool(scores["correct"]))})
    _write(options, f"{stem}-{round(scored.scores.scores['accuracy'], 4)}.csv", table)


def _letter(row: Question, scored: Scored, choice: str | None) -> str:
    # The other protocol of a mapped option tells the letter itself.
    if scored.plan.protocol.name == "medcap_option" and choice in row.options:
        return string.ascii_uppercase[row.options.index(choice)]
    return choice or ""


def _raw(rows: Sequence[Question], scored: Scored, options: RunOptions) -> list[dict[str, Any]]:
    way = scored.plan.way
    return [
        _line(row, way.last_request(row, entry), entry["prediction"], options)
        for row, entry in zip(rows, scored.entries, strict=True)
    ]


def _line(row: Question, request: Any, answer: str, options: RunOptions) -> dict[str, Any]:
    turns = [] if request is None else text_turns(request.messages, options.num_image_tokens)
    instruction = plain_text([*turns, ("assistant", "")])
    return dict(zip(_COLUMNS, (row.image or "", instruction, row.references[0], answer), strict=True))


def _name(task: Task, options: RunOptions) -> str:
    return options.name or task.name


def _write(options: RunOptions, name: str, lines: Sequence[dict[str, Any]]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, list(lines[0]) if lines else list(_COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(make_folder(Path(options.output_dir)) / name, table.getvalue(), encoding="utf-8-sig")
