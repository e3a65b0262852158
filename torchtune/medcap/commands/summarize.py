"""``medcap summarize RUN...``: the scores of several runs side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.errors import UserError
from medcap.plurals import counted

if TYPE_CHECKING:
    from medcap.evaluation.run_files import TaskFolder

HELP = "the scores of several runs side by side, judged conversations by type and domain"
_LONGEST_NAME = 32
_ROW_OF = {"metrics": "row", "verdicts": "judged answer", "ratings": "answer"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap summarize``.
    """
    parser.add_argument("runs", type=Path, metavar="RUN", nargs="+", help="output_dir, or the folder of a task in it")
    parser.add_argument(
        "--task", action="append", metavar="TASK", help="only this task's folder, may be repeated (all)"
    )
    parser.add_argument(
        "--by",
        action="append",
        metavar="FIELD",
        help="also a line for each group of modality, question_type, answer_type or organ; may be repeated"
        " (judged conversations: question_type and modality)",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as one JSON list instead of tables")


def run(options: argparse.Namespace) -> None:
    """Print a table for each task.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if a run has no scores, or no task is left.
    """
    from medcap.evaluation.run_files import RATINGS, find_tasks, score_rows
    from medcap.scoring.question import GROUPS
    from medcap.scoring.relative_scores import RELATIVE

    unknown = [name for name in options.by or () if name not in GROUPS]
    if unknown:
        raise UserError(f"--by {', '.join(unknown)}: rows are grouped by {', '.join(GROUPS)}")
    folders = [folder for folder in find_tasks(options.runs) if not options.task or folder.task in options.task]
    if not folders:
        raise UserError(f"--task {', '.join(options.task)}: none of the runs has such a folder")

    def wanted(row: Mapping[str, Any]) -> bool:
        fields = options.by or (("question_type", "modality") if row["kind"] == RATINGS else ())
        # The judge's own scores of each group are in the file and on the page.
        return not row["field"] or (row["field"] in fields and (row["kind"] != RATINGS or row["score"] in RELATIVE))

    rows = [row for folder in folders for row in score_rows(folder) if wanted(row)]
    if options.json:
        from medcap.files import plain

        print(json.dumps(plain(rows), indent=2, ensure_ascii=False, allow_nan=False))
        return
    blocks = []
    for task in dict.fromkeys(folder.task for folder in folders):
        own = [folder for folder in folders if folder.task == task]
        blocks.append(task_table(task, own, [row for row in rows if row["task"] == task]))
    print("\n\n".join(blocks))


def task_table(task: str, folders: Sequence[TaskFolder], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one task's scores, a column for each run.

    Args:
        task: its name.
        folders: of the runs.
        rows: what ``score_rows`` gives of them.

    Returns:
        Lines: the scores of each protocol with their intervals, then notices.
    """
    from medcap.report.text_table import aligned

    runs = list(dict.fromkeys(folder.run for folder in folders))
    names = dict(zip(runs, map(_short, runs), strict=True))
    lines = [[task, *names.values()]]
    for row in _labels(rows):
        cells = {other["run"]: other for other in rows if _label(other) == row}
        protocol, judge, score, field, group = row
        head = f"{protocol} ({judge})" if judge else protocol
        words = f"{head} {score}" + (f", {field.replace('_', ' ')} {group}" if field else "")
        lines.append([words, *(_cell(cells.get(run)) for run in runs)])
    return "\n".join([*aligned(lines), *(f"note: {notice}" for notice in _notices(folders))])


def _label(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    return row["protocol"], row["judge"], row["score"], row["field"], row["group"]


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    return list(dict.fromkeys(map(_label, rows)))


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "-"
    from medcap.scoring.relative_scores import RELATIVE

    if row["score"] in RELATIVE:
        row = {**row, **{key: row[key] and 100 * row[key] for key in ("value", "low", "high")}}
        digits = 1
    else:
        digits = 2 if row["kind"] == "ratings" else 4
    between = "" if row["low"] is None else f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    count = f" n={row['n']:,}" if row["field"] else ""
    return f"{row['value']:.{digits}f}{between}{count}"


def _short(run: str) -> str:
    return run if len(run) <= _LONGEST_NAME else f"...{run[3 - _LONGEST_NAME :]}"


def _notices(folders: Sequence[TaskFolder]) -> list[str]:
    """Say what makes the columns hard to compare: other rows, missing answers, unrated ones."""
    lines = []
    for kind in dict.fromkeys(kind for folder in folders for kind in folder.metrics):
        own = [(folder.run, folder.metrics[kind]) for folder in folders if kind in folder.metrics]
        # A judge's dataset is the file of answers, which differs by run.
        if kind == "metrics" and len({metrics["dataset"]["sha256"] for _, metrics in own}) > 1:
            lines.append("the runs were asked other questions: their dataset files differ")
        if len({metrics["n"] for _, metrics in own}) > 1:
            numbers = ", ".join(f"{metrics['n']:,} of {run}" for run, metrics in own)
            lines.append(f"the runs have different numbers of {_ROW_OF[kind]}s: {numbers}")
        for run, metrics in own:
            counts = {"without an answer": metrics.get("failures", 0), "unrated": metrics.get("unrated", 0)}
            counts["without a readable verdict"] = metrics.get("unparsed", 0)
            parts = [f"{count:,} {what}" for what, count in counts.items() if count]
            if parts:
                lines.append(f"{run}: of {counted(metrics['n'], _ROW_OF[kind])}, {', '.join(parts)}")
    return lines
