"""Floating-point operations of matrix products, counted as they are called."""

from __future__ import annotations

from typing import Any

import torch
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


class FlopCount(TorchDispatchMode):
    """Counts while it is entered, with the formulas of torch's FlopCounterMode.

    That mode itself follows modules by hooks, which ``torch.autograd.grad`` within a forward pass does not allow.

    Attributes:
        total: floating-point operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in _ATTENTION:
            first, count = _ATTENTION[packet]
            self.total += count(args[first].shape, args[first + 1].shape)
        elif packet in flop_registry:
            self.total += flop_registry[packet](*args, **kwargs, out_val=out)
        return out
