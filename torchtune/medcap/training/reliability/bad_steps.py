"""Steps whose loss or gradient is not finite: found and counted here; the trainer then changes no weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medcap.errors import UserError

_MOST_NAMES = 5


class BadSteps:
    """Finds steps whose loss or gradient is not finite, and counts those in a row.

    Args:
        most: the number of them that ends the run, ``max_bad_steps``.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.in_a_row = 0

    def add(self, step: int, names: Sequence[str]) -> str:
        """Count a step that was skipped.

        Args:
            step: its number.
            names: the records in it.

        Returns:
            The line to print.

        Raises:
            UserError: if it is one too many.
        """
        self.in_a_row += 1
        if self.in_a_row >= self.most:
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            raise UserError(
                f"{self.in_a_row} steps in a row had a loss or gradient that is not finite: lower optimizer.lr or set"
                f" clip_grad_norm; the last: step {step}, its records: {', '.join(names[:_MOST_NAMES])}{more}"
            )
        return f"step {step} skipped: loss or gradient is not finite; its records: {', '.join(names)}"

    def is_good(self, loss: float, norm: float) -> bool:
        """Return whether a step may be made; one that may ends the row of bad ones.

        Args:
            loss: loss of the step.
            norm: norm of its gradient.
        """
        good = math.isfinite(loss) and math.isfinite(norm)
        if good:
            self.in_a_row = 0
        return good

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as ``save_tree`` takes it."""
        return {"in_a_row": self.in_a_row}

    def load(self, state: Mapping[str, Any]) -> None:
        """Count on from a checkpoint.

        Args:
            state: value of ``state``.
        """
        self.in_a_row = state["in_a_row"]
