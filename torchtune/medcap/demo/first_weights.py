"""First weights of a tiny language model that is to copy: it begins with the attention that large ones learn early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchtune.modules import TransformerDecoder

_MEAN = 0.6  # share of an embedding's length that all tokens have in common, as in trained language models
_LOOK_BACK = 5.0  # difference of logits between the token that a head looks for and its neighbour
_MATCH = 3.0  # size of the logits with which equal contexts find each other
_CONTEXT = (1.0, 1.0, 0.7, 0.7, 0.5, 0.5)  # weights of the last tokens in the comparison of contexts, latest first
_RANDOM = 0.15  # random weights beside those that are laid down
_STABLE = 0.01  # radians a token; slower rotary frequencies hardly change within a conversation
_ROPE_BASE = 500_000.0


@torch.no_grad()
def give_induction_heads(decoder: TransformerDecoder, seed: int = 0) -> None:
    """Let the first two layers begin as induction heads, https://arxiv.org/abs/2209.11895.

    Head h of the first layer looks at the token h + 1 places back. Heads of the second layer look for places whose
    last tokens equal the present ones, and copy what came next there. A tiny model finds this within minutes only by
    luck, a large one has it early; all these weights are then trained like the rest.

    Args:
        decoder: a Llama decoder with as many key-value heads as heads and its own output layer, whose other weights
            are random; its output layer is set to the embeddings.
        seed: of the random directions.
    """
    generator = torch.Generator().manual_seed(seed)
    table: Tensor = decoder.tok_embeddings.weight
    width = table.shape[1]
    common = torch.nn.functional.normalize(torch.randn(width, generator=generator), dim=0)
    table -= (table @ common)[:, None] * common
    head: Any = decoder.output
    head.weight.copy_(table * width**-0.5)
    table.copy_(table * math.sqrt(1 - _MEAN**2) + _MEAN * math.sqrt(width) * common)

    layers: Any = decoder.layers
    first, second = layers[0].attn, layers[1].attn
    heads, size = first.num_heads, first.head_dim
    # What is read of a token, then where the token 1, 2, ... places back is written.
    spaces = [_columns(width, size, generator) for _ in range(heads + 1)]
    spaces = [space - common[:, None] * (common @ space)[None] for space in spaces]
    angles = _ROPE_BASE ** (-torch.arange(0, size, 2) / size)  # [size / 2]
    strength = math.sqrt(_LOOK_BACK * math.sqrt(size) / float((1 - angles.cos()).sum())) / (_MEAN * math.sqrt(width))
    stable = torch.repeat_interleave(angles < _STABLE, 2)
    rank = int(stable.sum())
    scale = math.sqrt(_MATCH * math.sqrt(size) / (rank * (1 - _MEAN**2) / 2))
    copies = _columns(width, width, generator)
    for attention in (first, second):
        for matrix in attention.parameters():
            matrix *= _RANDOM
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        turned = angles * (head + 1)
        here = torch.stack([torch.ones_like(angles), torch.zeros_like(angles)], -1).flatten()
        there = torch.stack([turned.cos(), turned.sin()], -1).flatten()
        first.q_proj.weight[part] += strength * here[:, None] * common
        first.k_proj.weight[part] += strength * there[:, None] * common
        first.v_proj.weight[part] += spaces[0].T
        first.output_proj.weight[:, part] += spaces[head + 1]
        for number, weight in zip(range(heads), _CONTEXT, strict=False):
            mixing = scale * math.sqrt(weight / size) * torch.randn(rank, size, generator=generator)
            rows = torch.arange(part.start, part.stop)[stable]
            second.q_proj.weight[rows] += mixing @ spaces[number].T
            second.k_proj.weight[rows] += mixing @ spaces[number + 1].T
        second.v_proj.weight[part] += copies[:, part].T
        second.output_proj.weight[:, part] += 2 * copies[:, part]


@torch.no_grad()
def give_number_line(decoder: TransformerDecoder, ids: Mapping[int, int], seed: int = 0) -> None:
    """Let words of numbers begin with embeddings that are alike where the numbers are near.

    Trained language models have such embeddings, https://arxiv.org/abs/2410.21272: waves of several lengths.

    Args:
        decoder: its embeddings are changed; :func:`give_induction_heads` sets the output layer to them.
        ids: the token of each number.
        seed: of the waves.
    """
    generator = torch.Generator().manual_seed(seed)
    table: Tensor = decoder.tok_embeddings.weight
    half = table.shape[1] // 2
    numbers = torch.tensor(list(ids), dtype=torch.float32) / (1 + max(ids))
    frequencies = 8 * math.pi * torch.randn(half, generator=generator)
    phases = 2 * math.pi * torch.rand(half, generator=generator)
    waves = numbers[:, None] * frequencies + phases
    line = math.sqrt(2) * torch.cat([waves.cos(), waves.sin()], dim=1)
    table[list(ids.values())] = 0.8 * line + 0.6 * torch.randn(2 * half, generator=generator)


def _columns(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return ``size`` random orthonormal columns of length ``count``."""
    return torch.linalg.qr(torch.randn(count, size, generator=generator))[0]
