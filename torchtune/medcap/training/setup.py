"""What every training recipe does first: seeds, what trains and what is frozen, the data loader."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from medcap.data.batch import Batch
from medcap.datasets.chat import BadRow, BatchPlan, ChatDataset
from medcap.errors import UserError
from medcap.models.vision_language_model import VisionLanguageModel

TRAINABLE_PARTS = ("vision", "projector")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def check_trainable(parts: Sequence[str]) -> None:
    """Check the key ``trainable``.

    Raises:
        UserError: for an unknown part, or none.
    """
    unknown = [part for part in parts if part not in TRAINABLE_PARTS]
    if unknown or not parts:
        raise UserError(f"trainable={list(parts)}: choose from {', '.join(TRAINABLE_PARTS)}")


def set_trainable(model: VisionLanguageModel, parts: Sequence[str]) -> dict[str, nn.Parameter]:
    """Say which parts learn; the language model never does.

    A tower's parameters that its projector does not use (a pooling head where patch tokens are taken) stay frozen:
    they would never get a gradient.

    Args:
        model: whose ``requires_grad`` flags are set.
        parts: some of ``TRAINABLE_PARTS``.

    Returns:
        The trainable parameters by name.

    Raises:
        UserError: for an unknown part, or none.
    """
    check_trainable(parts)
    model.requires_grad_(False)
    unused = model.tower.unused_parameters(model.projector.takes)
    for name, parameter in model.tower.named_parameters():
        parameter.requires_grad_("vision" in parts and name not in unused)
    model.projector.requires_grad_("projector" in parts)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def describe_parts(model: VisionLanguageModel) -> str:
    """The banner: every part, frozen or trained, with its parameter count and dtype."""
    unused = model.tower.unused_parameters(model.projector.takes)
    tower = dict(model.tower.named_parameters())
    parts = [
        ("language model", list(model.decoder.parameters())),
        ("vision tower", [parameter for name, parameter in tower.items() if name not in unused]),
        ("vision, unused head", [parameter for name, parameter in tower.items() if name in unused]),
        ("projector", list(model.projector.parameters())),
    ]
    lines = []
    for name, parameters in parts:
        if parameters:
            count = sum(parameter.numel() for parameter in parameters)
            state = "trained" if parameters[0].requires_grad else "frozen"
            dtype = str(parameters[0].dtype).removeprefix("torch.")
            lines.append(f"  {name:<20} {state:<8} {count:>14,} parameters  {dtype}")
    return "\n".join(lines)


class _PlannedBatches(Dataset):
    def __init__(self, dataset: ChatDataset, plans: Sequence[BatchPlan], transform: Callable[..., Tensor]) -> None:
        self.dataset, self.plans, self.transform = dataset, plans, transform

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, place: int) -> tuple[Batch | None, list[BadRow]]:
        return self.dataset.load(self.plans[place], self.transform)


def iterate_batches(
    dataset: ChatDataset,
    plans: Sequence[BatchPlan],
    transform: Callable[..., Tensor],
    num_workers: int,
    device: torch.device,
) -> Iterator[tuple[Batch | None, list[BadRow]]]:
    """Load planned batches in their order, in worker processes.

    Args:
        dataset: what the plans refer to.
        plans: the batches.
        transform: the tower's preprocessing.
        num_workers: processes that decode images; 0 does it here.
        device: where the batches will go.

    Yields:
        The batch (None if nothing of it is usable) and the rows left out of it.
    """
    loader = DataLoader(
        _PlannedBatches(dataset, plans, transform),
        batch_size=None,
        num_workers=min(num_workers, len(plans)),
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if min(num_workers, len(plans)) else None,
    )
    yield from loader
