"""Keys and values of the tokens seen so far, for rows of different lengths.

A token is in the slot of its own position, so what a row holds does not depend on its neighbours. A query attends to
the slots up to its own position; everything after it, padding or the rest of an earlier request, is out of its
sight until it is overwritten.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class KVCache:
    """The store of all layers.

    Memory is taken at the first token and kept, so no step allocates.

    Args:
        num_slots: most tokens that are held at a time, rows x capacity.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.num_rows = 0
        self.capacity = 0
        self.used = 0
        self.slots: Tensor | None = None  # of the next token of each row; one tensor for every step
        self.filled: tuple[Tensor, Tensor] | None = None
        self.layers: list[LayerCache] = []

    def start(self, num_rows: int, capacity: int, device: torch.device) -> None:
        """Empty it and cut it into rows.

        Args:
            num_rows: R.
            capacity: most tokens of one row.
            device: where the positions are.

        Raises:
            ValueError: if the rows need more than ``num_slots``.
        """
        self.capacity, self.used = capacity, 0
        self.slots = self.filled = None
        self._key_positions = torch.arange(capacity, device=device)
        for layer in self.layers:
            layer.clear(0, self.num_slots)
        self.grow(num_rows)

    def grow(self, num_rows: int) -> None:
        """Have more rows, or fewer; those that stay keep what they hold.

        Args:
            num_rows: R.

        Raises:
            ValueError: if the rows need more than ``num_slots``.
        """
        if num_rows * self.capacity > self.num_slots:
            raise ValueError(f"{num_rows} rows of {self.capacity} tokens do not fit into {self.num_slots} slots")
        self.num_rows = num_rows
        rows = torch.arange(num_rows, device=self._key_positions.device)
        self._first_slots = rows * self.capacity  # [R]
        # [Contract] a captured graph reads its inputs where they were: no step may make this anew.
        self.slots = torch.zeros_like(rows)

    def fill(self, slots: Tensor, sources: Tensor) -> None:
        """Say where the tokens of a prefill go; then run the layers, whose tokens attend to each other only.

        One token may go to several rows: the tokens of a shared prefix are computed once.

        Args:
            slots: ``[n]`` int64, row x capacity + position.
            sources: ``[n]`` int64 flat indices into the prefill's tokens.
        """
        self.filled = slots, sources

    def step(self, positions: Tensor, used: int) -> Tensor:
        """Say where the next token of each row goes; then run the layers, which get all keys and values back.

        Args:
            positions: ``[R]`` int64, each below ``used``.
            used: slots of every row that are passed to the layers; the cost of a step depends on these only.

        Returns:
            ``[R, 1, used]`` bool, True where a query attends to a key.
        """
        assert self.slots is not None, "start comes first"
        self.used, self.filled = used, None
        torch.add(self._first_slots, positions, out=self.slots)
        return self._key_positions[:used] <= positions[:, None, None]

    def keep(self, rows: list[int]) -> None:
        """Drop all rows except these, which move up in their order.

        Args:
            rows: ascending.
        """
        for layer in self.layers:
            layer.keep(rows)
        self.grow(len(rows))

    def clear(self, row: int) -> None:
        """Empty one row."""
        for layer in self.layers:
            layer.clear(row * self.capacity, (row + 1) * self.capacity)


class LayerCache:
    """The object that a torchtune attention layer holds as its ``kv_cache``."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def clear(self, start: int, end: int) -> None:
        """Forget what slots hold."""
        if self._keys is None or self._values is None:
            return
        # A masked slot weighs nothing, but nothing times NaN is NaN: one bad row must not reach the next one.
        self._keys[start:end].zero_()
        self._values[start:end].zero_()

    def keep(self, rows: list[int]) -> None:
        capacity = self._cache.capacity
        for slots in (self._keys, self._values):
            if slots is not None:
                # A row only moves up, so what it overwrites has moved before.
                for new, old in enumerate(rows):
                    if new != old:
                        slots[new * capacity : (new + 1) * capacity] = slots[old * capacity : (old + 1) * capacity]

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens; torchtune's attention calls it.

        Args:
            keys: ``[R, H, s, D]``; H is whatever the layer keeps, grouped heads or all.
            values: ``[R, H, s, D]``.

        Returns:
            In a prefill the new keys and values; otherwise those of all tokens so far, ``[R, H, used, D]``.
        """
        if self._keys is None or self._values is None:
            self._keys, self._values = (
                part.new_zeros(self._cache.num_slots, part.shape[1], part.shape[3]) for part in (keys, values)
            )
        return self._store(self._keys, keys), self._store(self._values, values)

    def _store(self, slots: Tensor, new: Tensor) -> Tensor:
        cache = self._cache
        tokens = new.transpose(1, 2).flatten(0, 1)  # [R * s, H, D]
        if cache.filled is not None:
            where, sources = cache.filled
            slots.index_copy_(0, where, tokens[sources])
            return new
        assert cache.slots is not None, "each step chooses them first"
        slots.index_copy_(0, cache.slots, tokens)  # into [slots, H, D]
        rows = slots[: cache.num_rows * cache.capacity].unflatten(0, (cache.num_rows, cache.capacity))
        return rows[:, : cache.used].transpose(1, 2)  # [R, H, used, D]


@contextmanager
def attached(decoder: nn.Module, cache: KVCache) -> Generator[KVCache]:
    """Let the decoder's attention layers use a cache, and leave them as they were, whatever happens.

    Args:
        decoder: any torchtune decoder.
        cache: a new one.

    Yields:
        The cache.
    """
    # By its own attribute: a wrapper around an attention layer answers for it too.
    layers: list[Any] = [module for module in decoder.modules() if "cache_enabled" in vars(module)]
    before = [(layer.kv_cache, layer.cache_enabled) for layer in layers]
    cache.layers = [LayerCache(cache) for _ in layers]
    try:
        for layer, layer_cache in zip(layers, cache.layers, strict=True):
            _put(layer, layer_cache, True)
        yield cache
    finally:
        for layer, (kv_cache, enabled) in zip(layers, before, strict=True):
            _put(layer, kv_cache, enabled)
        cache.layers = []


def _put(layer: Any, kv_cache: object, enabled: bool) -> None:
    # A registered submodule (torchtune's own cache) cannot be assigned over by a plain object.
    del layer.kv_cache
    layer.kv_cache = kv_cache
    layer.cache_enabled = enabled
