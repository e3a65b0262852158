"""Floating-point operations of matrix products, counted as they are called."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.flex_attention import flex_attention, flex_attention_backward
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def _attention(factor: int) -> Any:
    def count(query: Any, key: Any) -> int:
        rows, heads, length, width = query
        return factor * rows * heads * length * key[2] * width

    return count


# Two products forward; five backward, of which one computes the scores again. torch's table lacks the CPU's kernels.
_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: (0, _attention(4)),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (1, _attention(10)),
}


def _flex_scores(query: Tensor, block_mask: tuple[Any, ...]) -> int:
    """Scores of the blocks that FlexAttention computes: ``BlockMask.as_tuple()`` names them for every row and head."""
    queries, keys, partial, _, full = block_mask[:5]
    *_, block_queries, block_keys, _ = block_mask
    blocks = partial if full is None else partial + full  # [R or 1, H or 1, blocks of queries]
    shares = query.shape[0] * query.shape[1] // (blocks.shape[0] * blocks.shape[1])
    # The last blocks may reach over the end.
    most = query.shape[0] * query.shape[1] * queries * keys
    return min(int(blocks.sum()) * block_queries * block_keys * shares, most)


class FlopCount(TorchDispatchMode):
    """Counts while it is entered, with the formulas of torch's FlopCounterMode.

    That mode itself follows modules by hooks, which ``torch.autograd.grad`` within a forward pass does not allow, and
    knows no FlexAttention. Nothing is compiled under it, as compiled kernels are not seen; FlexAttention that is not
    compiled would hold all scores in memory, so it gives zeros here. Take no values from a pass with it.

    Attributes:
        total: floating-point operations so far.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __enter__(self) -> FlopCount:
        self._eager = torch.compiler.set_stance("force_eager")
        self._eager.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._eager.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is flex_attention:
            query, key, value, _, block_mask = args[:5]
            self.total += 2 * _flex_scores(query, block_mask) * (query.shape[-1] + value.shape[-1])
            lengths = query.new_zeros(query.shape[:-1], dtype=torch.float32)
            return query.new_zeros(*query.shape[:-1], value.shape[-1]), lengths, lengths
        if func is flex_attention_backward:
            query, key, value = args[:3]
            block_mask = next(one for one in args if isinstance(one, tuple) and len(one) > 10)
            self.total += 10 * _flex_scores(query, block_mask) * query.shape[-1]
            return *(torch.zeros_like(one) for one in (query, key, value)), ()
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in _ATTENTION:
            first, count = _ATTENTION[packet]
            self.total += count(args[first].shape, args[first + 1].shape)
        elif packet in flop_registry:
            self.total += flop_registry[packet](*args, **kwargs, out_val=out)
        return out
