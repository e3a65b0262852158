"""A page that ranks runs: a table for each task and data, from tables of results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.errors import UserError
from medcap.evaluation.results_table import RUN_COLUMNS, read_results
from medcap.plurals import counted
from medcap.report.leaderboard import Leaderboard, Place
from medcap.report.page_frame import Page
from medcap.report.protocol_table import CONTROL_NAMES
from medcap.report.sections import Facts, Notices
from medcap.scoring.protocols.registry import ALL_PROTOCOLS
from medcap.scoring.relative_scores import MEAN_OF_RATIOS, RELATIVE

_ABOUT = (*RUN_COLUMNS, "checkpoint", "folder", "dataset", "dataset_sha256", "judge", "n", "failures")
_OWN = "_own"


def leaderboard(tables: Sequence[str | Path], title: str = "Leaderboard") -> Page:
    """Rank the runs of tables of results.

    Runs are in one list only where task, data files (by their hash), protocol and number of rows are the same: other
    scores are not comparable. The order is that of the protocol's headline, the highest first.

    Args:
        tables: ``results.csv`` files.
        title: of the page.

    Returns:
        The page.

    Raises:
        UserError: if a table cannot be read, or no run has a score.
    """
    # A run that several tables hold has one place.
    runs = list({tuple(sorted(run.items())): run for table in tables for run in read_results(table)}.values())
    lists: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for run in runs:
        # A judge's row names the answers, which differ by run, instead of the data; other judges are other scales.
        data = run.get("judge") or run.get("dataset_sha256", "")
        lists.setdefault((run["task"], data, run["protocol"], run.get("n", "")), []).append(run)
    sections = [section for key, own in sorted(lists.items()) if (section := _section(key, own))]
    if not sections:
        raise UserError(f"{', '.join(map(str, tables))}: no run has a score")
    names = [section.title for section in sections]
    split = sorted({section.task for section in sections if sum(other.task == section.task for other in sections) > 1})
    notices = [
        f"{task}: scores by other rules, of other data files or of other numbers of rows are in lists of their own"
        for task in split
    ]
    return Page(
        title,
        f"{counted(len(runs), 'result')} in {counted(len(names), 'list')}. A run without an answer to a question has it"
        " wrong.",
        [
            Notices(notices) if notices else None,
            *sections,
            Facts("Where this comes from", {f"table {number}": path for number, path in enumerate(tables, start=1)}),
        ],
    )


def _section(key: tuple[str, ...], runs: Sequence[Mapping[str, str]]) -> Leaderboard | None:
    task, data, protocol, rows = key
    judge = data if "judge" in runs[0] else ""
    columns = list(dict.fromkeys(column for run in runs for column in run if column not in _ABOUT))
    columns = [column for column in columns if not column.endswith(_OWN)]
    head = _headline(protocol, columns)
    if head is None:
        return None
    kept = [head, *(column for column in columns if column != head)]
    values = [[_number(run.get(column)) for column in kept] for run in runs]
    # A run that lacks the headline stands last.
    heads = [-math.inf if line[0] is None else line[0] for line in values]
    order = sorted(range(len(runs)), key=lambda index: -heads[index])
    # The column is in percent where each of its values may be a share of 1, or is a relative score.
    percent = [_is_percent(column, [line[number] for line in values]) for number, column in enumerate(kept)]
    lines, place, before = [], 0, None
    for position, index in enumerate(order, start=1):
        if values[index][0] != before:
            place, before = position, values[index][0]
        run = runs[index]
        cells = [_shown(value, share) for value, share in zip(values[index], percent, strict=True)]
        detail = ", ".join(filter(None, (run.get("checkpoint", ""), f"{run.get('failures', '0')} missing")))
        strip = values[index][0] if percent[0] else None
        lines.append(
            Place(place, run["output_dir"], detail, cells, None if strip is None else min(max(strip, 0.0), 1.0))
        )
    return Leaderboard(
        title=", ".join(filter(None, (task, _rows_words(rows), protocol, judge and f"judge {judge}"))),
        task=task,
        columns=[_words(column, protocol) for column in kept],
        lines=lines,
        note=f"Data: {Path(runs[0]['dataset']).name}." if runs[0].get("dataset") and not judge else "",
    )


def _rows_words(rows: str) -> str:
    return counted(int(rows), "row") if rows.isdecimal() else rows


def _headline(protocol: str, columns: Sequence[str]) -> str | None:
    own = [column for column in columns if column.startswith(f"{protocol}.")]
    name = ALL_PROTOCOLS[protocol].headline if protocol in ALL_PROTOCOLS else MEAN_OF_RATIOS
    return next((column for column in own if column == f"{protocol}.{name}"), own[0] if own else None)


def _is_percent(column: str, values: Sequence[float | None]) -> bool:
    if column.rpartition(".")[2] in RELATIVE:
        return True
    return all(value is None or 0.0 <= value <= 1.0 for value in values)


def _shown(value: float | None, percent: bool) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if percent else f"{value:.3f}"


def _words(column: str, protocol: str) -> str:
    words = column.removeprefix(f"{protocol}.")
    for control, name in CONTROL_NAMES.items():
        words = words.replace(f".{control}", f", {name}")
    return words.replace(".", " ").replace("_", " ")


def _number(cell: Any) -> float | None:
    try:
        return None if cell is None else float(cell)
    except ValueError:
        return None
