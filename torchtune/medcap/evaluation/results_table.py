"""``results.csv``: one row a run, so that runs can be lined up with pandas."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcap.datasets.rows.delimited import MAX_FIELD
from medcap.errors import UserError
from medcap.files import make_folder, write_text
from medcap.locks import locked

RUN_COLUMNS = ("output_dir", "task", "protocol", "settings")


def append_result(path: str | Path, row: Mapping[str, Any]) -> None:
    """Add a run's row.

    The columns are those of all runs together, in the order in which they first came; a run without one leaves it
    empty. A row of the same run, by ``RUN_COLUMNS``, is replaced where it stands. The file is replaced as a whole,
    under a lock on ``.<name>.lock`` beside it, so that runs that end at the same time do not lose each other's rows.

    Args:
        path: the CSV file, UTF-8; made with its folder if it is not there.
        row: column -> text, number, True or False, or None for an empty cell; holds ``RUN_COLUMNS``.

    Raises:
        ValueError: if the row lacks one of ``RUN_COLUMNS`` or a value is a list or dictionary.
        UserError: if the file is not such a table or cannot be written.

    Example:
        >>> run = {"output_dir": "results/a", "task": "vqarad", "protocol": "exact", "settings": "3f2a…"}
        >>> append_result("results/results.csv", {**run, "n": 451, "accuracy": 0.61})
        >>> pandas.read_csv("results/results.csv").pivot(index="output_dir", columns="task", values="accuracy")
    """
    path = Path(path)
    missing = [column for column in RUN_COLUMNS if row.get(column) in (None, "")]
    if missing:
        raise ValueError(f"a result needs {', '.join(missing)}")
    new = {str(column): _cell(column, value) for column, value in row.items()}
    make_folder(path.parent)
    try:
        # The lock is a separate file, because each write replaces the table's file.
        with locked(path.with_name(f".{path.name}.lock")):
            columns, rows = _read(path)
            columns += [column for column in new if column not in columns]
            run = _run(new)
            positions = [position for position, old in enumerate(rows) if _run(old) == run]
            if positions:
                rows[positions[0]] = new
            else:
                rows.append(new)
            table = io.StringIO()
            writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_text(path, table.getvalue())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def read_results(path: str | Path) -> list[dict[str, str]]:
    """Read the runs of a table.

    Args:
        path: a ``results.csv``, or the folder that holds one.

    Returns:
        A dictionary for each run, without the columns that it leaves empty.

    Raises:
        UserError: if the file is missing, is not such a table, or holds no run.
    """
    path = Path(path)
    if (path / "results.csv").is_file():
        path = path / "results.csv"
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a results.csv, as runs of medcap/recipes/generate write it")
    _, rows = _read(path)
    if not rows:
        raise UserError(f"{path} holds no run")
    return [{column: cell for column, cell in row.items() if cell} for row in rows]


def _cell(column: str, value: Any) -> str:
    if hasattr(value, "item"):
        value = value.item()
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, (Mapping, list, tuple, set)):
        raise ValueError(f"{column}: a cell holds text or a number, not a {type(value).__name__}")
    return repr(value) if isinstance(value, float) else str(value)


def _run(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row.get(column, "") for column in RUN_COLUMNS)


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return [], []
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: move it away") from error
    if not text.strip():
        return [], []
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))
    reader = csv.reader(io.StringIO(text, newline=""))
    columns = next(reader)
    if not set(RUN_COLUMNS) <= set(columns) or len(set(columns)) < len(columns):
        raise UserError(f"{path} is no table of results (its columns lack {', '.join(RUN_COLUMNS)}): move it away")
    rows = []
    for cells in reader:
        if not cells:
            continue
        if len(cells) != len(columns):
            raise UserError(f"{path}, line {reader.line_num}: {len(cells)} cells in {len(columns)} columns: fix it")
        rows.append(dict(zip(columns, cells, strict=True)))
    return columns, rows
