"""Training as it is written plainly: a padded batch, an image for every sample, all logits, layers computed twice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from medcap.models.vision_language_model import VisionLanguageModel
from medcap.modules.injection import inject_image_rows


def plain_loss(model: VisionLanguageModel, tokens: Tensor, labels: Tensor, images: Tensor | None) -> Tensor:
    """Summed cross-entropy of right-padded samples.

    Args:
        model: its decoder's layers run as torchtune has them.
        tokens: ``[B, S]`` int64.
        labels: ``[B, S]`` int64, not shifted, -100 where nothing is learnt.
        images: ``[N, 3, H, W]`` in the order of the placeholders.

    Returns:
        A float32 scalar.
    """
    states = model.decoder.tok_embeddings(tokens.masked_fill(tokens == model.image_token_id, 0))  # [B, S, d]
    if images is not None:
        image_positions = (tokens.flatten() == model.image_token_id).nonzero().flatten()
        states = inject_image_rows(states, model.encode_images(images), image_positions)
    for layer in model.decoder.layers:
        states = checkpoint(layer, states, use_reentrant=False)
    logits = model.unembed(states)  # [B, S, V]
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


def pad(samples: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and labels of samples -> ``[B, S]`` tokens, labels and attention mask, padded on the right."""
    length = max(len(tokens) for tokens, _ in samples)
    tokens = torch.full((len(samples), length), pad_id)
    labels = torch.full((len(samples), length), -100)
    for row, (own_tokens, own_labels) in enumerate(samples):
        tokens[row, : len(own_tokens)] = torch.tensor(own_tokens)
        labels[row, : len(own_labels)] = torch.tensor(own_labels)
    lengths = torch.tensor([len(own) for own, _ in samples])
    return tokens, labels, (torch.arange(length) < lengths[:, None]).long()
