"""What a pretend GPU counts, and its graphs, which repeat operations on the memory that these had when captured."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

counts: Counter[str] = Counter()
_local = threading.local()  # the graph that a thread captures
# All that is captured in the process; more than one at a time is an error.
underway: list[Graph] = []
_graphs: weakref.WeakSet[Graph] = weakref.WeakSet()


def count(name: str, times: int = 1) -> None:
    """Count something that a GPU is given; 0 times is nothing."""
    if times:
        counts[name] += times


def repeatable(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Compute something on tensors in the CPU's memory, which a graph that this thread captures will repeat."""
    out = function(*args, **kwargs)
    if (graph := getattr(_local, "graph", None)) is not None:
        graph.take(lambda: function(*args, **kwargs), _tensors((args, kwargs)), _tensors(out))
    return out


class Graph:
    """Stands for ``torch.cuda.CUDAGraph``: no Python of the captured code runs again."""

    def __init__(self) -> None:
        self.steps: list[tuple[Callable[[], Any], list[Tensor]]] = []
        self.stream: Any = None
        self._outside: set[int] = set()  # memory that was there before
        self._own: dict[int, Tensor] = {}  # tensors in memory of the graph's own
        self._pool: object = None
        _graphs.add(self)

    def pool(self) -> object:
        return self._pool

    def begin(self, pool: object, stream: Any) -> None:
        self._pool, self.stream = pool or object(), stream

    def take(self, compute: Callable[[], Any], given: list[Tensor], made: list[Tensor]) -> None:
        self._outside |= {_memory(tensor) for tensor in given} - self._own.keys()
        self._own |= {_memory(tensor): tensor for tensor in made if _memory(tensor) not in self._outside}
        # What a stream of another GPU captures is not there: the operations have run, and nothing repeats them.
        if self.stream.device.index == 0:
            self.steps.append((compute, made))

    def replay(self) -> None:
        count("graphs")
        # Graphs of one pool use the same memory, one after the other.
        for other in _graphs:
            if other is not self and other._pool is self._pool:
                for tensor in other._own.values():
                    if tensor.is_floating_point():
                        tensor.detach().fill_(torch.nan)
        for compute, kept in self.steps:
            for new, old in zip(_tensors(compute()), kept, strict=True):
                if new.data_ptr() != old.data_ptr():
                    old.copy_(new)


@contextlib.contextmanager
def capturing(
    graph: Graph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global"
) -> Generator[None]:
    """Stands for ``torch.cuda.graph``, within which nothing may wait or be copied from the host."""
    stream = stream or torch.cuda.Stream()
    assert not underway, "one at a time"
    assert all(other.stream is not stream or other._pool is pool for other in _graphs), "graphs share a stream"
    torch.cuda.synchronize()
    underway.append(graph)
    graph.begin(pool, stream)
    _local.graph = graph
    before = counts.copy()
    try:
        yield
    finally:
        _local.graph = None
        underway.remove(graph)
    spent = counts - before
    assert not spent["waits"] and not spent["copies to device"], f"a capture must not: {spent}"


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
