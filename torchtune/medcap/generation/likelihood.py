"""How likely answers are: all candidates of a prompt, and all prompts of an image, in one pass over what they share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medcap.generation.image_rows import ImageRows
from medcap.generation.prefill import PREFILL_TOKENS, masked_logits, run_trees, with_image_rows
from medcap.generation.prefix_tree import Prompt, Tree, chunks, pack_trees
from medcap.generation.request import CandidateScores
from medcap.models.vision_language_model import VisionLanguageModel

FinishScores = Callable[[Prompt, CandidateScores], None]

# Most logits that are held at once.
_LOGITS = 1 << 26


def score_trees(
    model: VisionLanguageModel, trees: Sequence[Tree], images: ImageRows, vocab_size: int, finish: FinishScores
) -> None:
    """Score the candidates of all prompts.

    Args:
        model: in eval mode.
        trees: the longer first; every prompt has candidates.
        images: encodes images.
        vocab_size: of the tokenizer.
        finish: called with each prompt and its scores as soon as they are known.
    """
    queue = deque(trees)
    for part in chunks(trees, PREFILL_TOKENS):
        readable: list[Tree] = []
        for tree in part:
            queue.popleft()
            seen = with_image_rows(tree, images, (image for other in queue for image in other.images))
            if isinstance(seen, Tree):
                readable.append(seen)
                continue
            for prompt in tree.prompts:
                finish(prompt, CandidateScores(error=seen))
        if readable:
            _score(model, readable, vocab_size, finish)


def _score(model: VisionLanguageModel, trees: Sequence[Tree], vocab_size: int, finish: FinishScores) -> None:
    packed = pack_trees(trees, model.device)
    hidden = run_trees(model, trees, packed)  # [R * S, d]
    prompts = [prompt for tree in trees for prompt in tree.prompts]
    # A candidate's first token is predicted at the prompt's last one, each further one at the one before it.
    places: list[int] = []  # where a token is predicted
    tokens: list[int] = []  # which one
    for number, prompt in enumerate(prompts):
        for start, candidate in zip(packed.leaves[number], prompt.candidates, strict=True):
            places += [packed.last[number], *range(start, start + len(candidate) - 1)]
            tokens += candidate.tolist()
    log_probabilities = iter(_log_probabilities(model, hidden, places, tokens, vocab_size).tolist())
    for prompt in prompts:
        sums = [sum(next(log_probabilities) for _ in candidate) for candidate in prompt.candidates]
        counts = [len(candidate) for candidate in prompt.candidates]
        if all(abs(total) < float("inf") for total in sums):
            finish(prompt, CandidateScores(sums, counts))
        else:
            finish(prompt, CandidateScores(error="the model's output is not finite"))


def _log_probabilities(
    model: VisionLanguageModel, hidden: Tensor, places: list[int], tokens: list[int], vocab_size: int
) -> Tensor:
    """Log-probability of each token at its place, ``[n]`` float64; a place is unembedded once."""
    wanted, inverse = torch.tensor(places, device=hidden.device).unique(return_inverse=True)  # [p], [n]
    targets = torch.tensor(tokens, device=hidden.device)
    result = torch.zeros(len(tokens), dtype=torch.float64, device=hidden.device)
    size = max(1, _LOGITS // vocab_size)
    for start in range(0, len(wanted), size):
        logits = masked_logits(model, hidden[wanted[start : start + size]], vocab_size)  # [c, V]
        normalizers = logits.logsumexp(dim=-1)  # [c]
        here = ((inverse >= start) & (inverse < start + size)).nonzero().flatten()
        rows = inverse[here] - start
        result[here] = (logits[rows, targets[here]] - normalizers[rows]).double()
    return result
