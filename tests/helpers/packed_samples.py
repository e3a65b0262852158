"""Five samples over two images, the batches that hold them, a tiny model for them, and the plain loss of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers import plain_training
from helpers.llm_checkpoints import random_decoder, tiny_llm
from medcap.data.batch import Batch, make_batch
from medcap.data.epoch_order import plan_packed
from medcap.data.packing import Sample, make_table, pack_row
from medcap.data.shared_prefix import continue_prompt_prefix
from medcap.models.projectors.base import build_projector
from medcap.models.towers.registry import build_tower
from medcap.models.towers.tiny_tower import tiny_spec
from medcap.models.vision_language_model import VisionLanguageModel

IMAGE = 7
K = 4
PROMPT_PREFIX = (1, 2)


def tiny_model(**changes: Any) -> VisionLanguageModel:
    """A tower of 16 pixels, a projector of ``K`` tokens and a Llama of two layers; ``changes`` are the Llama's."""
    torch.manual_seed(0)
    spec, preprocess = tiny_spec({"image_size": 16, "width": 32, "depth": 1, "heads": 2})
    tower = build_tower(spec, preprocess)
    llm = tiny_llm(**changes)
    projector = build_projector(
        {"_component_": "medcap.models.mlp", "num_image_tokens": K}, tower.shape, llm["embed_dim"]
    )
    return VisionLanguageModel(tower, projector, random_decoder(llm), IMAGE)


def tiny_images() -> dict[str, Tensor]:
    """The images ``a`` and ``b``, ``[3, 16, 16]`` uint8, and ``c`` and ``d`` of three and two such pictures."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"a": (3, 16, 16), "b": (3, 16, 16), "c": (3, 3, 16, 16), "d": (2, 3, 16, 16)}
    return {
        name: torch.randint(64, 192, shape, dtype=torch.uint8, generator=generator) for name, shape in shapes.items()
    }


PICTURES = {"a": 1, "b": 1, "c": 3, "d": 2}


def sample(images: str | None, question: Sequence[int], answer: Sequence[int]) -> Sample:
    """The prompt prefix, images one after the other, a question, and an answer that is learnt."""
    shown = tuple(images or "")
    lengths = tuple(K * PICTURES[image] for image in shown)
    head = [*PROMPT_PREFIX, *[IMAGE] * sum(lengths)]
    tokens = np.array([*head, *question, *answer], dtype=np.int32)
    successors = np.where(np.arange(len(tokens)) >= len(head) + len(question), tokens, -100).astype(np.int32)
    return Sample(tokens[:-1], successors[1:], shown, lengths, len(head) if shown else 0, "row")


SAMPLES = [
    sample("a", [20, 21, 22], [30, 31]),
    sample("a", [20, 23], [32]),
    sample("a", [20, 21], [33, 34, 35]),
    sample("b", [24, 25], [36, 37]),
    sample(None, [26, 27, 28], [38]),
]
NUM_TARGETS = 9
# Images of one, two and three pictures, alone and together; two questions about one of them.
MIXED_SAMPLES = [
    sample("c", [20, 21, 22], [30, 31]),
    sample("a", [20, 23], [32]),
    sample("dca", [24], [36, 37]),
    sample("c", [20, 25], [33, 34]),
    sample("d", [26, 27], [38]),
    sample(None, [26, 28], [39]),
]


def batch_of(
    samples: Sequence[Sample],
    images: Mapping[str, Tensor],
    row_length: int,
    share: bool = True,
    prompt_prefix: tuple[int, ...] = (),
    mask_pictures: Mapping[str, Tensor] | None = None,
) -> Batch:
    """Pack samples into rows of ``row_length`` tokens; samples over one image ``share`` their prefix."""
    samples = [continue_prompt_prefix(one, prompt_prefix, IMAGE) for one in samples]
    plan = plan_packed(make_table(samples), np.arange(len(samples)), row_length, share)
    rows = [
        pack_row([[samples[index] for index in document] for document in row], row_length, pad_id=0)
        for row in plan.rows(0, len(plan))
    ]
    own = None if mask_pictures is None else mask_pictures.__getitem__
    return make_batch(rows, IMAGE, K, images.__getitem__, prompt_prefix=prompt_prefix, mask_picture=own)


def gradients(model: VisionLanguageModel, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of each parameter that has one."""
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def plain_loss(model: VisionLanguageModel, images: Mapping[str, Tensor], samples: Sequence[Sample] = SAMPLES) -> Tensor:
    """The plain reference: every sample in a padded row of its own, with its own images; mean over ``NUM_TARGETS``."""
    # A sample lacks its last token, which is its last target, and the label of its first.
    whole = [([*one.tokens, one.targets[-1]], [-100, *one.targets]) for one in samples]
    tokens, labels, _ = plain_training.pad(whole, pad_id=0)
    pixels = torch.cat([images[name].view(-1, 3, 16, 16) for one in samples for name in one.images])
    inputs = (tensor.to(model.device) for tensor in (tokens, labels, pixels))
    return plain_training.plain_loss(model, *inputs) / NUM_TARGETS
