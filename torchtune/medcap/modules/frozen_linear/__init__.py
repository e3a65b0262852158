"""The key ``llm_weights``: linear maps of frozen decoder layers in low precision."""

from __future__ import annotations

import logging

import torch
from torch import nn

from medcap.errors import UserError
from medcap.modules.frozen_linear.base import FrozenLinear
from medcap.modules.frozen_linear.fp8 import Fp8Linear
from medcap.modules.frozen_linear.int8 import Int8Linear

__all__ = [
    "LLM_WEIGHTS",
    "UNQUANTISED",
    "FrozenLinear",
    "check_device",
    "check_layers",
    "count_parameters",
    "quantise_layer",
    "quantised_bytes",
    "weights_of",
]

UNQUANTISED = "bf16"
LLM_WEIGHTS = (UNQUANTISED, "fp8", "int8", "nf4")
# The first GPUs that multiply 8-bit floats.
_FP8_CAPABILITY = (8, 9)


def check_device(llm_weights: str, device: torch.device) -> None:
    """See that a device can compute with these weights; the CPU can with all.

    Raises:
        UserError: if it cannot.
    """
    if llm_weights != "fp8" or device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is not None or capability < _FP8_CAPABILITY:
        name = f"{torch.cuda.get_device_name(device)} ({capability[0]}.{capability[1]})"
        raise UserError(
            f"llm_weights=fp8 needs an NVIDIA GPU of compute capability 8.9 or later, this is {name}: use"
            " llm_weights=int8 or llm_weights=nf4"
        )


def check_layers(layers: nn.Module, llm_weights: str) -> None:
    """See that all linear maps can be quantised, from their shapes.

    Args:
        layers: the decoder's, on any device.
        llm_weights: one of ``LLM_WEIGHTS``.

    Raises:
        UserError: if one cannot.
    """
    if llm_weights == UNQUANTISED:
        return
    for name, linear in _linears(layers):
        reason = _class_of(llm_weights).why_impossible(linear.out_features, linear.in_features)
        if reason is not None:
            raise UserError(f"llm_weights={llm_weights} cannot hold layers.{name}: {reason}; use llm_weights=int8")


def quantise_layer(layer: nn.Module, llm_weights: str) -> None:
    """Replace a decoder layer's linear maps by quantised ones, one after the other.

    Norms and biases stay as they are.

    Args:
        layer: frozen layer with its weights; changed in place.
        llm_weights: one of ``LLM_WEIGHTS``; ``bf16`` changes nothing.
    """
    if llm_weights == UNQUANTISED:
        return
    for name, linear in _linears(layer):
        parent, _, leaf = name.rpartition(".")
        setattr(layer.get_submodule(parent), leaf, _class_of(llm_weights)(linear))


def weights_of(decoder: nn.Module) -> str:
    """Return the key ``llm_weights`` that a decoder was loaded with."""
    return next((module.precision for module in decoder.modules() if isinstance(module, FrozenLinear)), UNQUANTISED)


def count_parameters(module: nn.Module) -> int:
    """Numbers in a module's weights, each quantised one counted as one."""
    quantised = (part for part in module.modules() if isinstance(part, FrozenLinear))
    return sum(parameter.numel() for parameter in module.parameters()) + sum(
        part.in_features * part.out_features for part in quantised
    )


def quantised_bytes(layer: nn.Module, dtype: torch.dtype, llm_weights: str) -> int:
    """Bytes of a decoder layer's weights once it is quantised.

    Args:
        layer: not quantised yet, on any device.
        dtype: dtype of what is not quantised.
        llm_weights: one of ``LLM_WEIGHTS``.
    """
    numbers = sum(parameter.numel() for parameter in layer.parameters())
    if llm_weights == UNQUANTISED:
        return numbers * dtype.itemsize
    linears = [linear for _, linear in _linears(layer)]
    numbers -= sum(linear.weight.numel() for linear in linears)
    kind = _class_of(llm_weights)
    return numbers * dtype.itemsize + sum(kind.num_bytes(linear.out_features, linear.in_features) for linear in linears)


def _linears(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, part) for name, part in module.named_modules() if type(part) is nn.Linear]


def _class_of(llm_weights: str) -> type[FrozenLinear]:
    if llm_weights == "nf4":
        # bitsandbytes takes a second to import, and its notice is of a product that is not used here.
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
        from medcap.modules.frozen_linear.nf4 import Nf4Linear

        return Nf4Linear
    return {"fp8": Fp8Linear, "int8": Int8Linear}[llm_weights]
