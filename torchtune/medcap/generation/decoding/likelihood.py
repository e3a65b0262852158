"""How likely answers are: all candidates of a prompt, and all prompts of an image, in one pass over what they share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from medcap.generation.decoding.finite import not_finite
from medcap.generation.decoding.host_copy import copy_together
from medcap.generation.decoding.image_rows import ImageRows
from medcap.generation.decoding.prefill import mask_logits, prefill_tokens, run_trees, with_image_rows
from medcap.generation.decoding.prefix_tree import Prompt, Tree, chunks, pack_trees
from medcap.generation.request import CandidateScores
from medcap.models.vision_language_model import VisionLanguageModel

FinishScores = Callable[[Prompt, CandidateScores], None]

# Most logits held in memory at one time.
_LOGITS = 1 << 26


def score_trees(
    model: VisionLanguageModel, trees: Sequence[Tree], images: ImageRows, vocab_size: int, finish: FinishScores
) -> None:
    """Score the candidates of all prompts.

    Args:
        model: model in eval mode.
        trees: the longer first; every prompt has candidates.
        images: encodes images.
        vocab_size: vocab size of the tokenizer.
        finish: called with each prompt and its scores as soon as they are known.
    """
    queue, unread = deque(trees), None
    try:
        for part in chunks(trees, prefill_tokens(model.device)):
            readable: list[Tree] = []
            for tree in part:
                queue.popleft()
                seen, failed = with_image_rows(tree, images, (image for other in queue for image in other.images))
                if seen is not None:
                    readable.append(seen)
                for prompt, reason in failed.items():
                    finish(prompt, CandidateScores(error=reason))
            if readable:
                # A GPU has the next pass to compute while the host waits for the last one's numbers.
                before, unread = unread, _score(model, readable, vocab_size)
                _read(before, finish)
    finally:
        _read(unread, finish)


def _score(model: VisionLanguageModel, trees: Sequence[Tree], vocab_size: int) -> tuple[list[Prompt], Tensor]:
    """Return the prompts of some trees, and the log-probabilities of the tokens of all their candidates."""
    packed = pack_trees(trees)
    prompts = [prompt for tree in trees for prompt in tree.prompts]
    # A candidate's first token is predicted at the prompt's last one, each further one at the one before it.
    output_positions: list[int] = []  # where a token is predicted
    tokens: list[int] = []  # which one
    for number, prompt in enumerate(prompts):
        for start, candidate in zip(packed.leaves[number], prompt.candidates, strict=True):
            output_positions += [packed.last[number], *range(start, start + len(candidate) - 1)]
            tokens += candidate.tolist()
    # All candidates of a prompt begin at one place, which is computed once.
    distinct, inverse = np.unique(output_positions, return_inverse=True)  # [p], [n]
    hidden = run_trees(model, trees, packed, distinct)  # [p, d]
    return prompts, _log_probabilities(model, hidden, inverse, np.array(tokens), vocab_size)


def _read(scored: tuple[list[Prompt], Tensor] | None, finish: FinishScores) -> None:
    """Wait for the numbers of a pass, and finish its prompts."""
    if scored is None:
        return
    prompts, values = scored
    log_probabilities = iter(values.tolist())
    for prompt in prompts:
        sums: list[float] = [sum(next(log_probabilities) for _ in candidate) for candidate in prompt.candidates]
        counts = [len(candidate) for candidate in prompt.candidates]
        if all(abs(total) < float("inf") for total in sums):
            finish(prompt, CandidateScores(sums, counts))
        else:
            finish(prompt, CandidateScores(error=not_finite("model")))


def _log_probabilities(
    model: VisionLanguageModel, hidden: Tensor, output_rows: np.ndarray, tokens: np.ndarray, vocab_size: int
) -> Tensor:
    """Return the log-probability of each token (``[n]``) at its row (``[n]``) of the hidden states, ``[n]`` float64."""
    size = max(1, _LOGITS // vocab_size)
    order = np.argsort(output_rows, kind="stable")
    starts = range(0, len(hidden), size)
    ends = np.searchsorted(output_rows[order], [start + size for start in starts])
    rows, targets, places = copy_together([output_rows[order] % size, tokens[order], order], hidden.device)
    parts, first = [], 0
    for start, end in zip(starts, ends.tolist(), strict=True):
        logits = mask_logits(model, model.unembed(hidden[start : start + size]), vocab_size)  # [c, V]
        normalizers = logits.logsumexp(dim=-1)  # [c]
        here = rows[first:end]
        parts.append((logits[here, targets[first:end]] - normalizers[here]).double())
        first = end
    values = torch.cat(parts)
    return torch.empty_like(values).index_copy_(0, places, values)
