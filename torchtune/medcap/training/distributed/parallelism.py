"""Place the frozen decoder on the processes: whole on each, or its layers divided within a node."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

from medcap.checkpoints.build_model import ModelPlan
from medcap.checkpoints.llm_architecture import build_decoder, with_files
from medcap.checkpoints.vision import VisionPlan
from medcap.errors import UserError
from medcap.instantiate import find_component
from medcap.models.component import Component, set_gradient_flags
from medcap.models.projectors.base import Projector
from medcap.models.towers.base import Tower
from medcap.modules.frozen_linear import UNQUANTISED
from medcap.modules.label_loss import default_chunk_size
from medcap.training.distributed.context import DistributedContext
from medcap.training.distributed.memory import MemoryEstimate, device_memory, estimate, vision_activations
from medcap.training.distributed.sharded_optimizer import ELEMENT_WISE
from medcap.training.keys import DistributedConfiguration, TrainingConfiguration
from medcap.training.setup import checkpointed_layers

# Reserve for what an estimate leaves out: the allocator's waste, kernel workspace, an unusually large batch.
_USABLE_SHARE = 0.9
# Text tokens of a packed row, besides each image's own tokens: a guess, the data is not read for it.
_WORDS_PER_IMAGE = 60


@dataclass(frozen=True)
class Parallelism:
    """How a run's decoder is loaded.

    Attributes:
        mode: ``replicate`` or ``shard``.
        why: a line that says so and why.
        load_device: where its weights go.
        after_layer: what ``LLMPlan.load`` calls with each layer; None for nothing.
    """

    mode: str
    why: str
    load_device: torch.device
    after_layer: Callable[[nn.Module], None] | None

    @property
    def sharded(self) -> bool:
        """Whether processes run their layers together, so that each must run all of them, forward and backward."""
        return self.mode == "shard"


def plan_parallelism(
    cfg: DistributedConfiguration, plan: ModelPlan, world: DistributedContext, dtype: torch.dtype
) -> Parallelism:
    """Decide how the decoder is placed on the processes, before a weight is read; every process must call it.

    Args:
        cfg: configuration of the training.
        plan: the model.
        world: the processes.
        dtype: dtype of the decoder.

    Raises:
        UserError: for ``cpu_offload`` where it cannot work; for ``shard`` with low-precision ``llm_weights``.
    """
    needed = _estimate(cfg, plan, world, dtype)
    available = min(world.gather(device_memory(world.device, world)))
    mode, why = choose(cfg.parallelism, world, needed, available, cfg.cpu_offload, plan.llm.llm_weights)
    after_layer = None
    if mode == "shard":
        after_layer = LayerSharder(world, len(build_decoder(plan.llm.llm).layers), cfg.cpu_offload)
    return Parallelism(mode, why, world.device, after_layer)


def _estimate(
    cfg: TrainingConfiguration, plan: ModelPlan, world: DistributedContext, dtype: torch.dtype
) -> MemoryEstimate:
    row_length, packed = cfg.dataset.get("max_seq_len", 1024), cfg.dataset.get("packed", False)
    tiles = plan.vision.preprocess.tiling
    pictures = 1 if tiles is None else tiles.most_pictures  # of an image
    images = cfg.batch_size * pictures
    if packed:
        images *= max(1, row_length // (pictures * plan.vision.num_image_tokens + _WORDS_PER_IMAGE))
    full_mask = not (packed and world.device.type == "cuda")
    further = {component.name: component.on_meta(plan) for component in plan.further}
    return estimate_step(cfg, plan.vision, dtype, images, full_mask, world.size, further, world.device.type)


def estimate_step(
    cfg: TrainingConfiguration,
    vision: VisionPlan,
    dtype: torch.dtype,
    images: int,
    full_mask: bool,
    processes: int = 1,
    further: Mapping[str, Component] | None = None,
    device_type: str = "cuda",
) -> MemoryEstimate:
    """Estimate the memory of a training step, on each process, from the shapes that a configuration gives.

    Args:
        cfg: configuration of the training.
        vision: tower and projector; their weights are not read.
        dtype: dtype of the decoder.
        images: number of images of a batch on one process; of one that is cut into tiles, each picture counts.
        full_mask: full mask as for :func:`medcap.training.distributed.memory.estimate`.
        processes: that share the optimizer's state, where it can be shared.
        further: the components beside tower and projector, on the meta device.
        device_type: type of the device that computes.
    """
    components = {**vision.on_meta(), **(further or {})}
    tower, projector = components["vision"], components["projector"]
    assert isinstance(tower, Tower) and isinstance(projector, Projector)
    trained = set_gradient_flags(components, cfg.trainable)
    component = find_component(cfg.optimizer["_component_"], "optimizer._component_")
    decoder = build_decoder(with_files(cfg.llm, cfg.checkpointer.checkpoint_dir))
    row_length = cfg.dataset.get("max_seq_len", 1024)
    recomputed = checkpointed_layers(cfg, len(decoder.layers))
    beside = sum(part.layer_activations(cfg.batch_size * row_length, dtype) for part in components.values())
    seen = images * vision_activations(tower, projector, dtype)
    return estimate(
        decoder,
        dtype,
        cfg.batch_size,
        row_length,
        sum(parameter.numel() for parameter in trained.values()),
        other_activations=seen + beside * (len(decoder.layers) - recomputed + min(recomputed, 1)),
        full_mask=full_mask,
        checkpointed_layers=recomputed,
        loss_chunk_size=cfg.loss_chunk_size or default_chunk_size(device_type),
        optimizer_shards=processes if component in ELEMENT_WISE else 1,
        llm_weights=cfg.llm_weights,
    )


def choose(
    wanted: str,
    world: DistributedContext,
    needed: MemoryEstimate,
    available: int,
    cpu_offload: bool = False,
    llm_weights: str = UNQUANTISED,
) -> tuple[str, str]:
    """Choose between a whole frozen decoder on every process and layers divided over the processes of a node.

    Args:
        wanted: ``auto``, ``replicate`` or ``shard``. ``auto`` replicates where that fits, because it need not fetch
            weights in every step.
        world: the processes.
        needed: memory of one process.
        available: bytes that the process with the least may take: the same number on every process.
        cpu_offload: keep divided layers in the memory of the CPU.
        llm_weights: precision of the layers' linear maps. Low-precision ones are not divided: FSDP2 divides and gathers
            parameters, and theirs are buffers.

    Returns:
        ``replicate`` or ``shard``, and a line that says why.

    Raises:
        UserError: if ``cpu_offload`` is asked for where nothing is sharded, or on the CPU; for ``shard`` with
            low-precision ``llm_weights``.
    """
    low_precision = llm_weights != UNQUANTISED
    if low_precision and (wanted == "shard" or cpu_offload):
        asked = "parallelism=shard" if wanted == "shard" else "cpu_offload=true"
        raise UserError(
            f"{asked} does not go with llm_weights={llm_weights}, whose layers are not divided: use"
            f" parallelism=replicate cpu_offload=false, or llm_weights={UNQUANTISED}"
        )
    if cpu_offload and world.device.type != "cuda":
        raise UserError("cpu_offload=true: the weights are on the CPU already; use cpu_offload=false")
    if cpu_offload and (wanted == "replicate" or world.local_size == 1):
        raise UserError(
            "cpu_offload=true only works on a sharded language model: use parallelism=shard and at least two processes"
            " on each node, or cpu_offload=false"
        )
    whole, divided = needed.total(), needed.total(world.local_size, cpu_offload)
    usable = _USABLE_SHARE * available
    holder = "GPU" if world.device.type == "cuda" else "process"
    if world.local_size == 1:
        mode, reason = (
            "replicate",
            f"one process on each node: no other to share the language model with{_fit(whole, available)}",
        )
    elif low_precision:
        mode, reason = (
            "replicate",
            f"the whole language model on every {holder}, its layers in {llm_weights} are not divided"
            f"{_fit(whole, available)}",
        )
    elif wanted == "replicate" or (wanted == "auto" and whole <= usable and not cpu_offload):
        mode, reason = "replicate", f"the whole language model on every {holder}{_fit(whole, available)}"
    else:
        why = "as asked" if wanted == "shard" or cpu_offload else f"whole it would take {_gigabytes(whole)}"
        mode = "shard"
        reason = (
            f"the language model's layers divided over the {world.local_size} processes of a node ({why})"
            f"{_fit(divided, available)}"
        )
    if (divided if mode == "shard" else whole) > usable:
        reason += f"; that may not fit: {_remedy(mode, world, cpu_offload, llm_weights)}"
    return mode, f"parallelism={mode}: {reason}"


class LayerSharder:
    """Divides a frozen decoder's layers over the processes of a node with FSDP2, each as soon as it is loaded.

    A layer's weights are gathered when it runs, forward and backward, and freed again. No gradient of theirs
    exists, and nothing crosses the network between nodes. Embedding table, last norm and output head stay whole: the
    processes run the head a different number of times.

    [Contract] every process of a node runs every layer the same number of times, forward and backward.

    Args:
        world: the processes; all of them must make a sharder at the same point.
        num_layers: number of decoder layers.
        cpu_offload: keep the layers' parts in the memory of the CPU.

    Example:
        >>> decoder = plan.load(world.device, dtype, after_layer=LayerSharder(world, num_layers=32))

    Raises:
        UserError: for ``cpu_offload`` on the CPU.
    """

    def __init__(self, world: DistributedContext, num_layers: int, cpu_offload: bool = False) -> None:
        if cpu_offload and world.device.type != "cuda":
            raise UserError("cpu_offload=true: the weights are on the CPU already; use cpu_offload=false")
        if world.local_size == world.size:
            group: Any = dist.group.WORLD
        else:
            group, _ = dist.new_subgroups(world.local_size, timeout=world.timeout)
        self._mesh = DeviceMesh.from_group(group, world.device.type)
        self._num_layers = num_layers
        self._layers: list[Any] = []  # FSDPModule and nn.Module at once
        self._policy: OffloadPolicy = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()

    def __call__(self, layer: nn.Module) -> None:
        """Keep this process's part of a layer.

        Args:
            layer: whole, frozen, on this process's device.
        """
        sharded = fully_shard(layer, mesh=self._mesh, reshard_after_forward=True, offload_policy=self._policy)
        self._layers.append(sharded)
        if len(self._layers) == self._num_layers:
            self._link()

    def _link(self) -> None:
        """Prefetch the weights of the layer that runs next, forward and backward, while one computes."""
        for layer, following in itertools.pairwise(self._layers):
            layer.set_modules_to_forward_prefetch([following])
        # We call the layers directly, so FSDP2 sees no root module. Run a dummy root once: otherwise every layer is its
        # own root, and prefetching in the backward pass is lost.
        root: Any = fully_shard(_Root(nn.ModuleList(self._layers)), mesh=self._mesh)
        with torch.no_grad():
            root(torch.zeros((), device=self._mesh.device_type))


class _Root(nn.Module):
    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, states: Tensor) -> Tensor:
        return states


def _fit(needed: int, available: int) -> str:
    return f": about {_gigabytes(needed)} of the {_gigabytes(available)} free for it"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _remedy(mode: str, world: DistributedContext, cpu_offload: bool, llm_weights: str) -> str:
    smaller = "a smaller batch_size or dataset.max_seq_len, activation_memory_budget=0.5"
    if mode == "replicate" and world.local_size > 1:
        divided = f"llm_weights={UNQUANTISED} with " if llm_weights != UNQUANTISED else ""
        return f"try {divided}parallelism=shard, {smaller}"
    if mode == "shard" and world.device.type == "cuda" and not cpu_offload:
        return f"try {smaller}, cpu_offload=true"
    return f"try {smaller}"
