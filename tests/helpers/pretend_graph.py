"""What a pretend GPU counts, and its graphs, which repeat operations on the memory that these had when captured."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

counts: Counter[str] = Counter()
# While a graph is captured: what it repeats, and the tensors that each gave.
_captured: list[tuple[Callable[[], Any], list[Tensor]]] | None = None


def count(name: str, times: int = 1) -> None:
    """Count something that a GPU is given; 0 times is nothing."""
    if times:
        counts[name] += times


def repeatable(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Compute something on tensors in the CPU's memory, which a graph that is captured will repeat."""
    out = function(*args, **kwargs)
    if _captured is not None:
        _captured.append((lambda: function(*args, **kwargs), _tensors(out)))
    return out


class Graph:
    """Stands for ``torch.cuda.CUDAGraph``: no Python of the captured code runs again."""

    def __init__(self) -> None:
        self.steps: list[tuple[Callable[[], Any], list[Tensor]]] = []

    def pool(self) -> tuple[int, int]:
        return (0, 1)

    def replay(self) -> None:
        count("graphs")
        for compute, kept in self.steps:
            for new, old in zip(_tensors(compute()), kept, strict=True):
                if new.data_ptr() != old.data_ptr():
                    old.copy_(new)


@contextlib.contextmanager
def capturing(graph: Graph, pool: Any = None, capture_error_mode: str = "global") -> Generator[None]:
    """Stands for ``torch.cuda.graph``, within which nothing may wait or be copied from the host."""
    global _captured
    assert _captured is None, "one at a time"
    before = counts.copy()
    _captured = graph.steps
    try:
        yield
    finally:
        _captured = None
    spent = counts - before
    assert not spent["waits"] and not spent["copies to device"], f"a capture must not: {spent}"


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
