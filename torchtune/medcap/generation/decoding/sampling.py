"""The choice of the next token, for all rows of a batch at once."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from medcap.generation.request import Sampling

# Tokens that top-p looks at first. Language models rarely need more, and ordering them is cheap.
LIKELY_TOKENS = 1024
# Far below any difference of logits that matters; float32 cannot divide by less.
_LOWEST_TEMPERATURE = 1e-30


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
    return choose_among_likely(logits, sampling, uniforms, logits.shape[1])[0]


def choose_among_likely(
    logits: Tensor, sampling: Sampling, uniforms: Tensor | None, num_likely: int = LIKELY_TOKENS
) -> tuple[Tensor, Tensor | None]:
    """Choose as :func:`choose_tokens` does, but let top-p without top-k look at the most likely tokens only.

    Args:
        logits: ``[R, V]`` float32.
        sampling: the rule.
        uniforms: ``[R]``, numbers in [0, 1); not needed when greedy.
        num_likely: how many top-p looks at.

    Returns:
        The choices, ``[R]`` int64; and ``[R]`` bool, True where the likely tokens do not reach p, so that the choice
        must be made again by :func:`choose_tokens`. None where every choice is right.
    """
    if is_greedy(sampling):
        return logits.argmax(dim=-1), None
    assert uniforms is not None, "sampling needs them"
    # The largest is taken off first: a tiny temperature must not divide to infinity.
    shifted = logits - logits.amax(dim=-1, keepdim=True)  # [R, V]
    top_p = sampling.top_p if sampling.top_p is not None and sampling.top_p < 1 else None
    if sampling.top_k is None and top_p is None:
        weights = (shifted / max(sampling.temperature, _LOWEST_TEMPERATURE)).exp()
        return _invert(weights.cumsum(dim=-1, dtype=torch.float64), uniforms), None
    count = min(num_likely if sampling.top_k is None else sampling.top_k, logits.shape[1])
    ordered, ids = _most_likely(shifted, count)  # [R, k]
    # Few columns, so float64 costs nothing here and keeps the edges of the intervals apart.
    weights = (ordered.double() / sampling.temperature).exp()
    before = weights.cumsum(dim=-1) - weights  # of the tokens that are more likely
    short = None
    if top_p is not None:
        if count < logits.shape[1] and sampling.top_k is None:
            total = (shifted / max(sampling.temperature, _LOWEST_TEMPERATURE)).exp().sum(-1, True, dtype=torch.float64)
            short = (before[:, -1:] + weights[:, -1:] < top_p * total).squeeze(1)
        else:
            total = before[:, -1:] + weights[:, -1:]
        beyond = before >= top_p * total
        beyond[:, 0] = False
        weights = weights.masked_fill(beyond, 0.0)
    return ids.gather(1, _invert(weights.cumsum(dim=-1), uniforms)[:, None]).squeeze(1), short


def is_greedy(sampling: Sampling) -> bool:
    """Return whether no random numbers are needed."""
    return sampling.temperature == 0 or sampling.top_k == 1


def _most_likely(shifted: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest numbers of each row, descending and of equals the lowest id first, and their ids."""
    # ``topk`` promises no order among equals, so the key of a number holds its id too: the bits of a float32, read as
    # an integer, are in the order of the numbers once those of negative ones are turned around.
    bits = (shifted + 0.0).view(torch.int32)  # minus zero becomes zero
    ascending = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    ids = torch.arange(shifted.shape[1], device=shifted.device)
    keys = (ascending << 32) + (shifted.shape[1] - 1 - ids)
    found = keys.topk(count, dim=-1).indices
    return shifted.gather(1, found), found


def _invert(cumulative: Tensor, uniforms: Tensor) -> Tensor:
    """Columns of a cumulative distribution ``[R, n]``, not yet normalised, at random numbers: ``[R]``."""
    targets = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(1).clamp_(max=cumulative.shape[-1] - 1)
