"""Cross-entropy at the label positions only, in chunks, for a frozen output head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORE_INDEX = -100


def select_label_positions(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden states that predict a label, and the labels.

    Position i predicts the token at i + 1. A branch begins with a token that is not a label, so nothing is ever
    predicted across a branch's border.

    Args:
        hidden: ``[R, S, d]``.
        labels: ``[R, S]`` int64.

    Returns:
        ``[n, d]`` and ``[n]``.
    """
    wanted = labels[:, 1:] != IGNORE_INDEX  # [R, S - 1]
    return hidden[:, :-1][wanted], labels[:, 1:][wanted]


def label_loss(hidden: Tensor, labels: Tensor, unembed: Callable[[Tensor], Tensor], chunk_size: int = 1024) -> Tensor:
    """Summed cross-entropy over the labels, without ever holding the logits of more than one chunk.

    The head is frozen, so the gradient of a chunk's hidden states is all that is needed of it; it is taken while
    the chunk's logits exist, and only ``[n, d]`` is kept for the backward pass.

    Args:
        hidden: ``[R, S, d]`` decoder output before the final norm.
        labels: ``[R, S]`` int64, -100 where nothing is learnt.
        unembed: ``[m, d] -> [m, V]`` float32 logits; none of its parameters may need a gradient.
        chunk_size: positions whose logits exist at one time.

    Returns:
        The sum over all labels, a float32 scalar.
    """
    selected, targets = select_label_positions(hidden, labels)
    return _ChunkedCrossEntropy.apply(selected, targets, unembed, chunk_size)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        selected: Tensor,
        targets: Tensor,
        unembed: Callable[[Tensor], Tensor],
        chunk_size: int,
    ) -> Tensor:
        needs_gradient = selected.requires_grad
        gradient = torch.empty_like(selected) if needs_gradient else None  # [n, d]
        total = torch.zeros((), dtype=torch.float32, device=selected.device)
        for start in range(0, len(selected), chunk_size):
            stop = start + chunk_size
            with torch.set_grad_enabled(needs_gradient):
                chunk = selected[start:stop].detach().requires_grad_(needs_gradient)  # [m, d]
                loss = cross_entropy(unembed(chunk).float(), targets[start:stop], reduction="sum")
                if gradient is not None:
                    (gradient[start:stop],) = torch.autograd.grad(loss, chunk)
            total += loss.detach()
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradient = None if ctx.gradient is None else ctx.gradient * grad_output.to(ctx.gradient.dtype)
        return gradient, None, None, None
