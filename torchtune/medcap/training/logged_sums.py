"""What the log says of components beside their losses: sums of a step, over all processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medcap.models.component import Component


class LoggedSums:
    """The sums of a step, taken from the components that have some.

    Args:
        components: components of a model.

    Attributes:
        tensors: their sums, ``[m]`` each.
    """

    def __init__(self, components: Iterable[Component]) -> None:
        found = [(part, part.log_sums()) for part in components]
        self._parts = [(part, sums) for part, sums in found if sums is not None]
        self.tensors = [sums for _, sums in self._parts]

    def values(self, sums: Sequence[float]) -> dict[str, float]:
        """Return the values of the log.

        Args:
            sums: numbers in the order of ``tensors``, added over all processes.
        """
        values: dict[str, float] = {}
        start = 0
        for part, own in self._parts:
            values |= part.log_values(sums[start : start + len(own)])
            start += len(own)
        return values
