"""What a trial came to: values from the log that its training writes, and from its task's scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medcap.data.json_text import JsonError, parse_json
from medcap.sweep.definition import Objective

VALIDATION_LOSS = "validation_loss"


class NoValueError(Exception):
    """A run that ended well has not written the number that it is judged by."""


class Log:
    """Follows a ``metrics.jsonl`` that is being written.

    Args:
        path: the file; it need not be there yet, and may be replaced by a shorter one when a run continues from a
            checkpoint.
        key: the value to look for.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self.values: dict[int, float] = {}

    def news(self) -> list[tuple[int, float]]:
        """(step, value) of rows that were not there before; NaN for a value that is null."""
        try:
            with self._path.open("rb") as file:
                state = self._path.stat()
                if self._file != (state.st_dev, state.st_ino) or state.st_size < self._offset:
                    self._file, self._offset = (state.st_dev, state.st_ino), 0
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data.rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        found = []
        for step, value in _values(whole, self._key):
            if step not in self.values:
                found.append((step, value))
            self.values[step] = value
        return found


def _values(lines: bytes, key: str) -> Iterator[tuple[int, float]]:
    for line in lines.splitlines():
        try:
            row = parse_json(line)
        except JsonError:
            continue  # A missing field is reported by its name.
        if isinstance(row, dict) and key in row:
            yield int(row["step"]), math.nan if row[key] is None else float(row[key])


def watched(objective: Objective) -> tuple[str, int]:
    """Return the metric that Optuna watches while a trial trains, and its sign, so that more is better."""
    if objective.task is None:
        return objective.metric, 1
    return VALIDATION_LOSS, 1 if objective.direction == "minimize" else -1


def final_value(objective: Objective, folder: Path) -> float:
    """Return the number that a finished trial is judged by.

    Args:
        objective: says which.
        folder: folder of the trial.

    Raises:
        NoValueError: if it is not there, or is not finite.
    """
    if objective.task is not None:
        return _score(objective, folder / objective.task / "metrics.json")
    path = folder / "log" / "metrics.jsonl"
    log = Log(path, objective.metric)
    log.news()
    if not log.values:
        raise NoValueError(f"{path} has no {objective.metric}")
    last = log.values[max(log.values)]
    finite = [value for value in log.values.values() if math.isfinite(value)]
    if not math.isfinite(last):
        raise NoValueError(f"the last {objective.metric} in {path} is not finite")
    return {"last": last, "min": min(finite), "max": max(finite)}[objective.take]


def _score(objective: Objective, path: Path) -> float:
    wanted = objective.metric.partition(".")[2]
    try:
        value = _find(parse_json(path.read_bytes()), wanted)
    except FileNotFoundError:
        raise NoValueError(f"{path} was not written") from None
    except JsonError as error:
        raise NoValueError(f"{path} is damaged: {error}") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NoValueError(f"{path} has no finite number at {wanted}")
    return float(value)


def _find(node: Any, path: str) -> Any:
    """Follow a dotted path; a key may itself have dots in it."""
    if not path:
        return node
    if not isinstance(node, Mapping):
        return None
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        key = ".".join(parts[:count])
        if key in node:
            found = _find(node[key], ".".join(parts[count:]))
            if found is not None:
                return found
    return None
