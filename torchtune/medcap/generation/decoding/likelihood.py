"""How likely answers are: all candidates of a prompt, and all prompts of an image, in one pass over what they share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medcap.generation.decoding.finite import not_finite
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
    queue = deque(trees)
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
            _score(model, readable, vocab_size, finish)


def _score(model: VisionLanguageModel, trees: Sequence[Tree], vocab_size: int, finish: FinishScores) -> None:
    packed = pack_trees(trees, model.device)
    prompts = [prompt for tree in trees for prompt in tree.prompts]
    # A candidate's first token is predicted at the prompt's last one, each further one at the one before it.
    output_positions: list[int] = []  # where a token is predicted
    tokens: list[int] = []  # which one
    for number, prompt in enumerate(prompts):
        for start, candidate in zip(packed.leaves[number], prompt.candidates, strict=True):
            output_positions += [packed.last[number], *range(start, start + len(candidate) - 1)]
            tokens += candidate.tolist()
    # All candidates of a prompt begin at one place, which is computed once.
    distinct, inverse = torch.tensor(output_positions, device=model.device).unique(return_inverse=True)  # [p], [n]
    hidden = run_trees(model, trees, packed, distinct)  # [p, d]
    targets = torch.tensor(tokens, device=model.device)
    log_probabilities = iter(_log_probabilities(model, hidden, inverse, targets, vocab_size).tolist())
    for prompt in prompts:
        sums: list[float] = [sum(next(log_probabilities) for _ in candidate) for candidate in prompt.candidates]
        counts = [len(candidate) for candidate in prompt.candidates]
        if all(abs(total) < float("inf") for total in sums):
            finish(prompt, CandidateScores(sums, counts))
        else:
            finish(prompt, CandidateScores(error=not_finite("model")))


def _log_probabilities(
    model: VisionLanguageModel, hidden: Tensor, output_positions: Tensor, tokens: Tensor, vocab_size: int
) -> Tensor:
    """Log-probability of each token (``[n]``) at its row (``[n]``) of the hidden states (``[p, d]``), float64."""
    result = torch.zeros(len(tokens), dtype=torch.float64, device=hidden.device)
    size = max(1, _LOGITS // vocab_size)
    for start in range(0, len(hidden), size):
        logits = mask_logits(model, model.unembed(hidden[start : start + size]), vocab_size)  # [c, V]
        normalizers = logits.logsumexp(dim=-1)  # [c]
        here = ((output_positions >= start) & (output_positions < start + size)).nonzero().flatten()
        rows = output_positions[here] - start
        result[here] = (logits[rows, tokens[here]] - normalizers[rows]).double()
    return result
