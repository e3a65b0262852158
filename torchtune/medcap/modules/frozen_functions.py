"""The functions between the matrix products of a frozen decoder layer, without gradients for any weight.

Autograd's own versions compute and keep what only a weight gradient needs, or walk over memory more often. Under
``torch.compile`` the plain formulas are used, which the compiler fuses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchtune.models.llama3_1 import Llama3ScaledRoPE
from torchtune.modules import FeedForward, RMSNorm, RotaryPositionalEmbeddings

from medcap.modules.one_row import project

# Their table holds cosine and sine for neighbouring pairs of numbers: [max_seq_len, h / 2, 2].
_PAIRED_ROTATIONS = (RotaryPositionalEmbeddings, Llama3ScaledRoPE)


def normalise(norm: nn.Module, states: Tensor) -> Tensor:
    """Return a norm whose scale is frozen.

    Args:
        norm: torchtune's ``RMSNorm``; any other module is called directly.
        states: ``[..., d]``.

    Returns:
        ``[..., d]``.
    """
    if type(norm) is not RMSNorm:
        return norm(states)
    if states.device.type == "cpu" and not torch.compiler.is_compiling():
        return _FrozenRMSNorm.apply(states, norm.scale, norm.eps)
    if norm.scale.dtype != states.dtype:
        return norm(states)
    # One kernel on a GPU, which saves its input unchanged; torchtune's own call saves a float32 copy.
    return functional.rms_norm(states, norm.normalized_shape, norm.scale, norm.eps)


class _FrozenRMSNorm(torch.autograd.Function):
    """y = w x r with r = 1 / sqrt(mean(x^2) + eps), so dx = r (w dy) - x r^3 mean(w dy x)."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, scale: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float32)  # [..., 1]
        inverse = length.square_().div_(states.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(states, scale, inverse)
        return (states * inverse).mul_(scale).to(states.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        states, scale, inverse = ctx.saved_tensors
        gradient = grad_output.float() * scale
        along = torch.linalg.vecdot(gradient, states.float()).unsqueeze_(-1)  # [..., 1]
        along.mul_(inverse.pow(3)).div_(states.shape[-1])
        return gradient.mul_(inverse).addcmul_(states.float(), along, value=-1).to(states.dtype), None, None


def feed_forward(mlp: nn.Module, states: Tensor) -> Tensor:
    """Return the gated feed-forward part.

    Args:
        mlp: torchtune's ``FeedForward`` with SiLU; any other module is called directly.
        states: ``[..., d]``.

    Returns:
        ``[..., d]``.
    """
    if type(mlp) is not FeedForward or mlp.w3 is None or type(mlp.activation) is not nn.SiLU:
        return mlp(states)
    gate, up = project(mlp.w1, states), project(mlp.w3, states)  # [..., f]
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return project(mlp.w2, functional.silu(gate) * up)
    return mlp.w2(_GatedSiLU.apply(gate, up))


class _GatedSiLU(torch.autograd.Function):
    """silu(gate) * up that keeps its two inputs and not silu(gate) too: a sixth of what a layer keeps."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate = grad_output * up
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return grad_gate, functional.silu(gate).mul_(grad_output)


def rotation_table(rotation: nn.Module | None, positions: Tensor) -> Tensor | None:
    """Return the cosines and sines of a step, for all layers at once.

    Args:
        rotation: a layer's ``pos_embeddings``.
        positions: ``[R, S]`` int64.

    Returns:
        ``[R, S, 1, h / 2, 2]`` float32; None where :func:`rotate` must ask the module itself.
    """
    if rotation is None or type(rotation) not in _PAIRED_ROTATIONS:
        return None
    cache: Any = rotation.cache
    return cache[positions].unsqueeze(2)


def rotation_tables(layers: Iterable[Any], positions: Tensor) -> list[Tensor | None]:
    """Return the table of each layer; torchtune's layers share one module, so that it is made once.

    Args:
        layers: a decoder's.
        positions: ``[R, S]`` int64.
    """
    rotations = [layer.attn.pos_embeddings for layer in layers]
    tables = {rotation: rotation_table(rotation, positions) for rotation in set(rotations)}
    return [tables[rotation] for rotation in rotations]


def rotate(rotation: nn.Module | None, heads: Tensor, table: Tensor | None, positions: Tensor | None) -> Tensor:
    """Rotary position embedding (https://arxiv.org/abs/2104.09864).

    Args:
        rotation: a layer's ``pos_embeddings``.
        heads: ``[R, S, H, h]``.
        table: table from :func:`rotation_table`.
        positions: ``[R, S]`` int64.

    Returns:
        ``[R, S, H, h]``.
    """
    if rotation is None:
        return heads
    if table is None:
        return rotation(heads, input_pos=positions)
    pairs = heads.float().unflatten(-1, (-1, 2))  # [R, S, H, h / 2, 2]
    if not torch.compiler.is_compiling():
        # A complex product reads memory once, and so does its gradient; on a GPU it is one kernel and not six.
        return (
            torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table)).flatten(3).to(heads.dtype)
        )
    real, imaginary, cosine, sine = *pairs.unbind(-1), *table.unbind(-1)
    rotated = [real * cosine - imaginary * sine, imaginary * cosine + real * sine]
    return torch.stack(rotated, -1).flatten(3).to(heads.dtype)
