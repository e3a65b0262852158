"""Cross-entropy at the label positions only, in chunks, for an output head whose table is frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

IGNORE_INDEX = -100
# A GPU has done with 256 positions before it has read the head's table, which it reads twice a chunk.
_CPU_CHUNK, _GPU_CHUNK = 256, 512


def label_loss(
    hidden: Tensor,
    targets: Tensor,
    unembed: Callable[[Tensor], Tensor],
    chunk_size: int | None = None,
    learnt: Sequence[Tensor] = (),
) -> Tensor:
    """Return summed cross-entropy, without ever holding the logits of more than one chunk.

    The head's table is frozen, so the gradient of a chunk's hidden states is all that is needed, beside that of a few
    rows that may be learnt; it is taken while the chunk's logits exist, and only ``[n, d]`` is kept for the backward
    pass.

    Args:
        hidden: ``[n, d]`` decoder output before the final norm, where there is something to predict.
        targets: ``[n]`` int64, what is to be predicted there.
        unembed: ``[m, d] -> [m, V]`` float32 logits.
        chunk_size: positions whose logits exist at one time; None for :func:`default_chunk_size`.
        learnt: parameters of ``unembed`` that may need a gradient; no other may.

    Returns:
        The sum over all targets, a float32 scalar.
    """
    learnt = [parameter for parameter in learnt if parameter.requires_grad and torch.is_grad_enabled()]
    if chunk_size is None:
        chunk_size = default_chunk_size(hidden.device.type)
    return _ChunkedCrossEntropy.apply(hidden, targets, unembed, chunk_size, *learnt)


def default_chunk_size(device_type: str) -> int:
    """Return how many positions have their logits at one time where no number is given.

    Args:
        device_type: type of the device that computes, such as "cuda".
    """
    return _CPU_CHUNK if device_type == "cpu" else _GPU_CHUNK


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        unembed: Callable[[Tensor], Tensor],
        chunk_size: int,
        *learnt: Tensor,
    ) -> Tensor:
        needs_gradient = any(ctx.needs_input_grad)
        gradient = torch.empty_like(hidden) if needs_gradient else None  # [n, d]
        of_learnt = [torch.zeros_like(parameter) for parameter in learnt]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), chunk_size):
            stop = start + chunk_size
            chunk = hidden[start:stop].detach().requires_grad_(needs_gradient)  # [m, d]
            loss, gradients = _chunk_loss(chunk, targets[start:stop, None], unembed, learnt)
            if gradient is not None:
                gradient[start:stop], *further = gradients
                for parameter_gradient, part in zip(of_learnt, further, strict=True):
                    parameter_gradient += part
            total += loss
        ctx.gradients = None if gradient is None else [gradient, *of_learnt]
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [gradient * grad_output.to(gradient.dtype) for gradient in ctx.gradients]
        return gradients[0], None, None, None, *gradients[1:]


def _chunk_loss(
    chunk: Tensor, targets: Tensor, unembed: Callable[[Tensor], Tensor], learnt: Sequence[Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    """Return the summed cross-entropy of one chunk, and its gradients if the chunk needs one.

    Its logits are gone when it returns: those of two chunks never exist together.
    """
    with torch.set_grad_enabled(chunk.requires_grad):
        logits = unembed(chunk)  # [m, V]
    loss, grad_logits = _cross_entropy(logits.detach(), targets, chunk.requires_grad)
    return loss, () if grad_logits is None else torch.autograd.grad(logits, [chunk, *learnt], grad_logits)


def _cross_entropy(logits: Tensor, targets: Tensor, needs_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Return summed cross-entropy of ``[m, V]`` float32 logits, and its gradient, written over them."""
    wanted = logits.gather(1, targets)  # [m, 1]
    normaliser = logits.logsumexp(1, keepdim=True)
    loss = (normaliser - wanted).sum()
    if not needs_gradient:
        return loss, None
    # softmax - one-hot, in the memory of the logits: no second [m, V].
    probabilities = logits.sub_(normaliser).exp_()
    probabilities.scatter_add_(1, targets, torch.full_like(wanted, -1.0))
    return loss, probabilities
