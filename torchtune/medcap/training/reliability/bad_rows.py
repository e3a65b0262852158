"""Rows that cannot be used, counted and refused during a training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.errors import UserError
from medcap.training.metering import JsonLinesFile

if TYPE_CHECKING:
    from medcap.datasets.training_dataset import BadRow


def refuse_before_training(bad: Sequence[BadRow], num_rows: int, allowed_fraction: float) -> str | None:
    """Return why a data set has too many unusable rows to begin with; None if it has not.

    Args:
        bad: the rows that were found unusable.
        num_rows: number of all rows.
        allowed_fraction: how many of them may be unusable, ``max_bad_fraction``.
    """
    if len(bad) <= allowed_fraction * num_rows:
        return None
    # Rounded up: with a smaller fraction the same rows would be refused again.
    enough = min(math.ceil(1000 * len(bad) / num_rows) / 1000, 1)
    return (
        f"{len(bad)} of {num_rows} rows cannot be used, the first: {bad[0].reason};"
        f" fix or remove them, or allow some with max_bad_fraction={enough:g}"
    )


class BadRows:
    """The rows that turned out to be unusable: each is counted, said and logged once.

    Args:
        num_rows: number of rows of the training data.
        allowed_fraction: how many of them may be unusable, ``max_bad_fraction``.
        folder: gets ``bad_rows.jsonl``, a row a line; None on all but the main process. The file starts over with
            the first ``add``, or is continued where ``load`` was called before it.
    """

    def __init__(self, num_rows: int, allowed_fraction: float, folder: Path | None = None) -> None:
        self.num_rows = num_rows
        self.allowed_fraction = allowed_fraction
        self._names: dict[str, None] = {}
        self._last_reason = ""
        self._folder = folder
        self._file: JsonLinesFile | None = None
        self._resumed = False
        self._logged: set[str] = set()

    def __len__(self) -> int:
        return len(self._names)

    def add(self, rows: Iterable[BadRow]) -> list[BadRow]:
        """Count rows.

        Args:
            rows: rows with ``name`` and ``reason``; a row may come many times.

        Returns:
            Those that are new, their reasons without their names.

        Raises:
            UserError: if the file cannot be opened at the first call.
        """
        if self._folder is not None and self._file is None:
            self._file = JsonLinesFile(self._folder / "bad_rows.jsonl", self._stays)
        new = []
        for row in rows:
            if row.name in self._names:
                continue
            self._names[row.name] = None
            self._last_reason = row.reason
            # Both are shown side by side.
            row = replace(row, reason=row.reason.removeprefix(f"{row.name}: "))
            new.append(row)
            if self._file is not None and row.name not in self._logged:
                self._logged.add(row.name)
                self._file.write({"name": row.name, "reason": row.reason})
        return new

    def check(self) -> None:
        """Check whether the run may continue.

        Raises:
            UserError: if more rows are unusable than allowed.
        """
        if len(self._names) > self.allowed_fraction * self.num_rows:
            raise UserError(
                f"{len(self._names)} of {self.num_rows} rows turned out to be damaged, more than"
                f" max_bad_fraction={self.allowed_fraction} allows; the last: {self._last_reason}"
            )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as ``save_tree`` takes it."""
        return {"names": list(self._names), "last_reason": self._last_reason}

    def load(self, state: Mapping[str, Any]) -> None:
        """Count the rows of a checkpoint too, before those that were added since.

        Args:
            state: value of ``state``.
        """
        self._names = dict.fromkeys([*state["names"], *self._names])
        self._last_reason = self._last_reason or state["last_reason"]
        self._resumed = True

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _stays(self, row: Mapping[str, Any]) -> bool:
        """Return whether to keep a row of the file: each row once, also those that were met after the checkpoint."""
        name = row.get("name")
        if not self._resumed or not isinstance(name, str) or name in self._logged:
            return False
        self._logged.add(name)
        return True
