"""Estimate the memory of a training step from shapes alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medcap.checkpoints.llm_architecture import DecoderShape, describe
from medcap.models.decoders.transformers_model import Decoder, TransformersDecoder
from medcap.models.projectors.base import Projector
from medcap.models.towers.base import Tower
from medcap.modules.frozen_linear import UNQUANTISED, quantised_bytes
from medcap.training.distributed.context import DistributedContext

_FP32 = 4
# While a layer computes, the next one's weights are already being fetched.
_LAYERS_AT_ONCE = 2
_MEASURED_TOKENS = 16


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a step takes on one process.

    Attributes:
        layers: weights of the frozen decoder's layers.
        largest_layer: those of the largest one.
        other_frozen: embedding table, output head and last norm: on every device, however the layers are divided.
        trained: fp32 weights and gradients of what trains, and the low-precision copies that autocast makes.
        optimizer: its state, this process's share.
        activations: what autograd keeps of the forward pass.
        loss: the logits of one chunk of labels and the temporary tensors of the cross-entropy.
    """

    layers: int
    largest_layer: int
    other_frozen: int
    trained: int
    optimizer: int
    activations: int
    loss: int

    def frozen(self, local_size: int = 1, cpu_offload: bool = False) -> int:
        """Bytes of the frozen weights on one device.

        Args:
            local_size: processes that the layers are divided over; 1 is the whole model on each.
            cpu_offload: the divided layers wait in the memory of the CPU.
        """
        if local_size == 1 and not cpu_offload:
            return self.other_frozen + self.layers
        waiting = 0 if cpu_offload else -(-self.layers // local_size)
        return self.other_frozen + waiting + _LAYERS_AT_ONCE * self.largest_layer

    def total(self, local_size: int = 1, cpu_offload: bool = False) -> int:
        """Bytes of everything on one device; the arguments are those of ``frozen``."""
        working = self.activations + self.loss
        return self.frozen(local_size, cpu_offload) + self.trained + self.optimizer + working


def estimate(
    decoder: Decoder,
    dtype: torch.dtype,
    rows: int,
    row_length: int,
    trained_parameters: int,
    *,
    other_activations: int = 0,
    full_mask: bool = False,
    checkpointed_layers: int = 0,
    loss_chunk_size: int = 512,
    optimizer_bytes: int = 8,
    optimizer_shards: int = 1,
    llm_weights: str = UNQUANTISED,
) -> MemoryEstimate:
    """Estimate what a training step with a frozen decoder takes.

    Args:
        decoder: decoder as ``build_decoder`` makes it, on the meta device.
        dtype: dtype of the decoder, where ``llm_weights`` does not say another precision, and of its activations.
        rows: R of one batch, on one process.
        row_length: S, tokens in each of them.
        trained_parameters: numbers in what trains.
        other_activations: bytes that autograd keeps of the components, such as the tower for all images of a batch.
        full_mask: attention takes a mask of numbers to add, one for all layers, instead of a block mask.
        checkpointed_layers: layers whose activations are computed again in the backward pass.
        loss_chunk_size: positions whose logits exist at one time.
        optimizer_bytes: optimizer state for each trained number: 8 for AdamW, 4 for SGD with momentum.
        optimizer_shards: processes that share the optimizer state out.
        llm_weights: precision of the layers' linear maps. What autograd keeps does not depend on it.

    Returns:
        The estimate. It leaves out what the allocator wastes and what kernels use while they run: some 10 %. With
        ``llm_weights`` that is also one weight, decoded (int8, nf4) or transposed (fp8).
    """
    shape = describe(decoder)
    sizes = [quantised_bytes(layer, dtype, llm_weights) for layer in decoder.layers]
    all_numbers, of_layers = (sum(part.numel() for part in module.parameters()) for module in (decoder, decoder.layers))
    others = all_numbers - of_layers
    tokens = rows * row_length
    if isinstance(decoder, TransformersDecoder):
        layer = _measured_activations(decoder, dtype) * tokens
    else:
        layer = layer_activations(shape, dtype, tokens)
    kept = (shape.num_layers - checkpointed_layers) * layer
    if checkpointed_layers:
        # Each such layer's input, and one of them computed again.
        kept += checkpointed_layers * tokens * shape.embed_dim * dtype.itemsize + layer
    # Once for all layers: the rotary table, and the mask.
    kept += tokens * (_FP32 * shape.head_dim + (dtype.itemsize * row_length if full_mask else 0))
    # [m, V]: fp32 logits, over which their gradient is written, and as much again for a moment in between.
    loss = min(loss_chunk_size, tokens) * shape.vocab_size * 2 * _FP32
    low_precision = dtype.itemsize if dtype != torch.float32 else 0
    return MemoryEstimate(
        layers=sum(sizes),
        largest_layer=max(sizes),
        other_frozen=others * dtype.itemsize,
        trained=trained_parameters * (2 * _FP32 + low_precision),
        optimizer=-(-trained_parameters * optimizer_bytes // optimizer_shards),
        activations=kept + other_activations,
        loss=loss,
    )


def layer_activations(shape: DecoderShape, dtype: torch.dtype, tokens: int) -> int:
    """Bytes that autograd keeps of one frozen decoder layer.

    Read off ``FrozenLayer``, whose input needs a gradient and whose weights do not. A frozen linear map keeps nothing
    of its input, and a sum keeps nothing. With n tokens, b bytes a number, width d, H heads and H_kv key heads of
    width h and feed-forward width f, there remain:

    - both norms: their input, ``2 b n d``, and one fp32 number a token, ``2 * 4 n``;
    - attention: queries, keys, values and its output, ``b n h (2 H + 2 H_kv)``, and one fp32 number for each head,
      ``4 n H``;
    - the gated feed-forward part: the gate before its activation, and what it is multiplied with, ``2 b n f``.

    The last layer keeps less: queries, output and feed-forward part of the label positions only.

    Args:
        shape: the decoder's.
        dtype: dtype of the activations.
        tokens: n.
    """
    size = dtype.itemsize
    norms = 2 * (size * shape.embed_dim + _FP32)
    attention = size * shape.head_dim * 2 * (shape.num_heads + shape.num_kv_heads) + _FP32 * shape.num_heads
    return tokens * (norms + attention + 2 * size * shape.intermediate_dim)


def _measured_activations(decoder: TransformersDecoder, dtype: torch.dtype) -> int:
    """Bytes for each token that autograd keeps of one layer of transformers: more than of a ``FrozenLayer``."""
    decoder.to(dtype)
    with torch.device("meta"):
        embeddings = torch.zeros(1, _MEASURED_TOKENS, decoder.tok_embeddings.embedding_dim, dtype=dtype)
        positions = torch.arange(_MEASURED_TOKENS)[None]
    embeddings.requires_grad_()
    # [E, out, in]: without memory each token gathers its experts' weights, which a run does not.
    experts = {tuple(sorted(weight.shape[1:])) for weight in decoder.layers.parameters() if weight.ndim == 3}
    with decoder.without_memory():
        kept = saved_bytes(lambda: decoder.run(embeddings, None, positions), decoder, experts)
    return kept // (_MEASURED_TOKENS * len(decoder.layers))


def saved_bytes(function: Callable[[], Tensor], parts: nn.Module, gathered: Collection[tuple[int, ...]] = ()) -> int:
    """Bytes that autograd keeps of a computation, measured.

    Args:
        function: runs it and returns its result; on the meta device it costs nothing.
        parts: the modules of the computation, whose own weights and buffers are not counted.
        gathered: sorted shapes of matrices of which a stack ``[n, ., .]`` is a copy of weights, and not counted.

    Returns:
        Bytes of all memory that the backward pass refers to, each counted once.
    """
    own = {_memory_id(tensor) for tensor in (*parts.parameters(), *parts.buffers())}
    # The storages are held, so that none is freed and its identity given to another.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _memory_id(tensor) not in own and not (tensor.ndim == 3 and tuple(sorted(tensor.shape[1:])) in gathered):
            kept[_memory_id(tensor)] = tensor.untyped_storage()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return sum(storage.nbytes() for storage in kept.values())


def _memory_id(tensor: Tensor) -> int:
    # An address would not do: on the meta device all have the same.
    return tensor.untyped_storage()._cdata


def vision_activations(tower: Tower, projector: Projector, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps of the tower and the projector for one image.

    Args:
        tower: tower on the meta device, its ``requires_grad`` flags as in training.
        projector: projector on the meta device, its ``requires_grad`` flags as in training.
        dtype: dtype in which they compute; their weights are fp32.

    Returns:
        This is more than a GPU keeps, because attention on the meta device keeps its probabilities.
    """
    size = tower.preprocess.image_size
    encode = tower.encode_patches if projector.takes == "patches" else tower.encode_pooled
    with torch.device("meta"):
        image = torch.zeros(1, 3, size, size)
        kept = saved_bytes(lambda: projector(encode(image)), nn.ModuleList([tower, projector]))
    # There is no autocast on the meta device.
    return kept * dtype.itemsize // _FP32


def device_memory(device: torch.device, world: DistributedContext) -> int:
    """Bytes that this process may still take.

    Args:
        device: a GPU, or the CPU, whose memory the processes of a node share equally.
        world: the processes.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _available_memory() // world.local_size


def _available_memory(meminfo: Path = Path("/proc/meminfo"), control_group: Path = Path("/sys/fs/cgroup")) -> int:
    if meminfo.is_file():
        table = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        available = int(table["MemAvailable"].split()[0]) * 1024
    else:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # A container sees the machine's memory, but may only take its own.
    limit, used = control_group / "memory.max", control_group / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        available = min(available, max(int(limit.read_text()) - int(used.read_text()), 0))
    return available
