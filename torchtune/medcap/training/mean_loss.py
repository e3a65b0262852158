"""The loss terms of a batch as sums, and the loss over many batches without learning from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from medcap.data.batch import Batch, dummy_batch
from medcap.datasets.training_dataset import BadRow
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.training.distributed.context import DistributedContext
from medcap.training.loss_normalisation import LossWeights


def loss_sums(
    model: VisionLanguageModel, losses: LossWeights, batch: Batch | None, device: torch.device, chunk_size: int | None
) -> Tensor:
    """Compute a batch's loss terms; where gradients are wanted they are added to those of the batches before.

    Args:
        model: model on the device.
        losses: knows the counts of the step that the batch belongs to.
        batch: batch on any device; None where this process has none.
        device: device that computes.
        chunk_size: positions whose logits exist at one time; None for the default.

    Returns:
        ``[terms]`` float32 sums.
    """
    totals = torch.zeros(len(losses.terms), device=device)
    if batch is None:
        if model.always_backward:
            # Not compiled: it would be compiled for its shape, which no other batch has.
            with torch.compiler.set_stance("force_eager"):
                _add_sums(totals, model, losses, dummy_batch().to(device), chunk_size)
        return totals
    _add_sums(totals, model, losses, batch.to(device), chunk_size)
    return totals


def _add_sums(
    totals: Tensor, model: VisionLanguageModel, losses: LossWeights, batch: Batch, chunk_size: int | None
) -> None:
    for part in model.micro_batches(batch):
        sums = model.losses(part, chunk_size)
        loss = losses.combine(sums)
        # Without an image in it nothing that trains took part.
        if loss.requires_grad:
            loss.backward()
        totals += torch.stack([sums[term].detach() for term in losses.terms])


@torch.no_grad()
def mean_loss(
    model: VisionLanguageModel,
    losses: LossWeights,
    batches: Iterable[tuple[Batch | None, list[BadRow]]],
    world: DistributedContext,
    chunk_size: int | None,
    wants_to_stop: Callable[[], bool],
) -> tuple[float, int] | None:
    """Compute the loss over some batches without learning from them.

    Args:
        model: put into eval mode.
        losses: weighs the terms; its counts become those of these batches.
        batches: this process's part of them, and the rows left out; as many on every process.
        world: the processes.
        chunk_size: positions whose logits exist at one time; None for the default.
        wants_to_stop: whether this process was asked to stop.

    Returns:
        The loss, and how many rows could not be used; None if a process was asked to stop meanwhile.
    """
    model.eval()
    terms = losses.terms
    sums, counts, num_bad = [0.0] * len(terms), [0.0] * len(terms), 0.0
    for batch, bad in batches:
        own = loss_sums(model, losses, batch, world.device, chunk_size)
        num_bad += len(bad)
        if batch is not None:
            sums = [total + value for total, value in zip(sums, own.tolist(), strict=True)]
            counts = [total + count for total, count in zip(counts, losses.counts(batch), strict=True)]
        (stopped,) = world.sum([wants_to_stop()])
        if stopped:
            return None
    *totals, num_bad = world.sum([*sums, *counts, num_bad])
    losses.begin(totals[len(terms) :])
    return losses.values(totals[: len(terms)])["loss"], int(num_bad)
