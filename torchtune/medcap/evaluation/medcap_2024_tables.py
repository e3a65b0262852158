"""The CSV files that medcap 2024's users read, under their names and in their columns.

They are in ``output_dir``, in UTF-8 with a byte order mark, as medcap 2024 wrote them. A task names its function as
``legacy_table``.
"""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medcap.evaluation.prompting.options import MappedOption
from medcap.evaluation.scored import RunOptions, Scored
from medcap.files import make_folder, write_text
from medcap.generation.request import Request
from medcap.legacy.prompt import plain_text, text_turns
from medcap.scoring.protocols.base import Prompt
from medcap.scoring.protocols.coco import Coco
from medcap.scoring.protocols.multiple_choice import MedcapOption
from medcap.scoring.question import Question

_COLUMNS = ("image", "instruction", "output", "generated")
_OPTION_COLUMNS = ("option_A", "option_B", "option_C", "option_D")


def caption_tables(questions: Sequence[Question], scored: Sequence[Scored], options: RunOptions) -> None:
    """Write ``metrics-raw-{name}.csv``, and ``metrics-{name}.csv`` with a line ``score,0.123456`` for each of coco's.

    Args:
        questions: what was asked.
        scored: their answers.
        options: options of the run.
    """
    free = _free(scored)
    if free is None:
        return
    name = options.name or "caption"
    _write(options, f"metrics-raw-{name}.csv", _raw(questions, free, options))
    for part in scored:
        if isinstance(part.plan.protocol, Coco):
            scores = "".join(f"{key},{value:.6f}\n" for key, value in part.scores.scores.items())
            write_text(make_folder(Path(options.output_dir)) / f"metrics-{name}.csv", scores)


def vqarad_table(questions: Sequence[Question], scored: Sequence[Scored], options: RunOptions) -> None:
    """Write ``vqarad-{vqa_type}-raw-{name}.csv``, the closed questions (what medcap 2024's judge reads).

    See :func:`caption_tables` for the arguments.
    """
    free = _free(scored)
    if free is None:
        return
    table = zip(questions, _raw(questions, free, options), strict=True)
    name = f"vqarad-{free.plan.method.name}-raw-{options.name or 'vqarad'}.csv"
    _write(options, name, [line for question, line in table if question.answer_type == "CLOSED"])


def omnimedvqa_tables(questions: Sequence[Question], scored: Sequence[Scored], options: RunOptions) -> None:
    """Write ``omnimedvqa-{vqa_type}-raw-{name}.csv``, with ``-{idx}_{chunk}`` after the name of a part.

    Where an answer was mapped to an option, write also the same name with ``-{accuracy}`` and the columns
    predict_generated, predict, correct. See :func:`caption_tables` for the arguments.
    """
    part = next((part for part in scored if isinstance(part.plan.method, MappedOption)), _free(scored))
    if part is None:
        return
    asked, mapped = part.plan.method, isinstance(part.plan.method, MappedOption)
    method, answer = (asked.free, "free_answer") if isinstance(asked, MappedOption) else (asked, "prediction")
    stem = f"omnimedvqa-{method.name}-raw-{options.name or 'omnimedvqa'}{options.folder.removeprefix('omnimedvqa')}"
    raw = []
    for question, entry in zip(questions, part.entries, strict=True):
        line = _line(question, method.last_request(question, entry), entry.get(answer, ""), options)
        line |= dict.fromkeys(_OPTION_COLUMNS, "") | dict(zip(_OPTION_COLUMNS, question.options, strict=False))
        raw.append(line | {"modality_type": question.meta.get("modality", ""), "question_id": question.id})
    _write(options, f"{stem}.csv", raw)
    if not mapped:
        return
    table = []
    for line, question, entry, scores in zip(raw, questions, part.entries, part.scores.rows, strict=True):
        judged = {"predict_generated": entry["prediction"], "predict": _letter(question, part, scores.get("choice"))}
        decided = scores["correct"]
        table.append(line | judged | {"correct": "" if decided is None else int(decided)})
    _write(options, f"{stem}-{round(part.scores.scores['accuracy'], 4)}.csv", table)


def _free(scored: Sequence[Scored]) -> Scored | None:
    """Return the answers that were asked for freely."""
    return next((part for part in scored if part.plan.protocol.prompt is Prompt.FREE), None)


def _letter(question: Question, scored: Scored, choice: str | None) -> str:
    # The other protocol of a mapped option determines the letter itself.
    if isinstance(scored.plan.protocol, MedcapOption) and choice in question.options:
        return string.ascii_uppercase[question.options.index(choice)]
    return choice or ""


def _raw(questions: Sequence[Question], scored: Scored, options: RunOptions) -> list[dict[str, Any]]:
    method = scored.plan.method
    return [
        _line(question, method.last_request(question, entry), entry["prediction"], options)
        for question, entry in zip(questions, scored.entries, strict=True)
    ]


def _line(question: Question, request: Request | None, answer: str, options: RunOptions) -> dict[str, Any]:
    turns = [] if request is None else text_turns(request.messages, options.image_lengths(request.messages))
    instruction = plain_text([*turns, ("assistant", "")])
    return dict(zip(_COLUMNS, (question.image_cell, instruction, question.references[0], answer), strict=True))


def _write(options: RunOptions, name: str, lines: Sequence[dict[str, Any]]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, list(lines[0]) if lines else list(_COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(make_folder(Path(options.output_dir)) / name, table.getvalue(), encoding="utf-8-sig")
