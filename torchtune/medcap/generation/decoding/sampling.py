"""The choice of the next token, for all rows of a batch at once."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from medcap.generation.request import Sampling


def draw_uniforms(seed: int, key: str, count: int) -> Tensor:
    """Return a request's random numbers, which depend on nothing but their arguments.

    Args:
        seed: seed of the run.
        key: key of the request.
        count: how many.

    Returns:
        ``[count]`` float32 in [0, 1), on the CPU.
    """
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(count, generator=generator)


def choose_tokens(logits: Tensor, sampling: Sampling, uniforms: Tensor | None) -> Tensor:
    """Choose one token for each row.

    Greedy choice takes the lowest id among equals. Sampling goes temperature, then top-k, then top-p on what is
    left, then the inverse of the cumulative distribution at the row's random number: one number a token, so a
    row's choice does not depend on the other rows.

    Args:
        logits: ``[R, V]`` float32; minus infinity is never chosen.
        sampling: the rule.
        uniforms: ``[R]``, numbers in [0, 1); not needed when greedy.

    Returns:
        ``[R]`` int64.
    """
    if is_greedy(sampling):
        return logits.argmax(dim=-1)
    assert uniforms is not None, "sampling needs them"
    # The largest is taken off first: a tiny temperature must not divide to infinity.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)).double() / sampling.temperature
    if sampling.top_k is None and sampling.top_p is None:
        return _invert(scaled.softmax(dim=-1), uniforms)
    # A stable sort, so that equals are cut by the lowest id.
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)  # [R, V]
    ordered, ids = ordered[:, : sampling.top_k], ids[:, : sampling.top_k]  # [R, k]
    probabilities = ordered.softmax(dim=-1)
    if sampling.top_p is not None:
        before = probabilities.cumsum(dim=-1) - probabilities  # [R, k]
        beyond = before >= sampling.top_p
        beyond[:, 0] = False
        probabilities = probabilities.masked_fill(beyond, 0.0)
    return ids.gather(1, _invert(probabilities, uniforms)[:, None]).squeeze(1)


def is_greedy(sampling: Sampling) -> bool:
    """Return whether no random numbers are needed."""
    return sampling.temperature == 0 or sampling.top_k == 1


def _invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    cumulative = probabilities.cumsum(dim=-1)  # [R, V], not yet normalised
    targets = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(1).clamp_(max=probabilities.shape[-1] - 1)
