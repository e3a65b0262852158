"""Experts as files have them, one tensor an expert or blocks of four bits, and as one tensor of all experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medcap.checkpoints.llm_files import JoinedTensor, LLMFiles, TensorHeader

_EXPERTS = ".experts."
# Tensor of all experts -> an expert's own tensors, whose rows follow each other in it.
_OWN = {"gate_up_proj": ("gate_proj.weight", "up_proj.weight"), "down_proj": ("down_proj.weight",)}


def holds_blocks(config: Mapping[str, Any]) -> bool:
    """Return whether files hold experts in MXFP4, as gpt-oss is published."""
    return (config.get("quantization_config") or {}).get("quant_method") == "mxfp4"


def join_experts(files: LLMFiles, expected: Mapping[str, tuple[int, ...]]) -> LLMFiles:
    """Present the experts of a layer as one tensor, where a decoder has one and the files have none.

    Args:
        files: a checkpoint of Hugging Face.
        expected: names and shapes of a decoder's tensors, as files of this kind name them.

    Returns:
        The files with the tensors that are read by joining; what they are joined from is no tensor of its own.
    """
    joined = {}
    for name, shape in expected.items():
        if name in files.headers or _EXPERTS not in name:
            continue
        found = _from_blocks(files, name) or _from_each(files, name, shape)
        if found is not None:
            joined[name] = found
    parts = {part for tensor in joined.values() for part in tensor.parts}
    headers = {name: header for name, header in files.headers.items() if name not in parts}
    return replace(files, headers=headers | {name: [one.header] for name, one in joined.items()}, joined=joined)


def _from_each(files: LLMFiles, name: str, shape: tuple[int, ...]) -> JoinedTensor | None:
    """Return how a tensor of all experts is made of each one's: rows of the gate, then those of the values."""
    before, _, leaf = name.rpartition(".")
    if leaf not in _OWN:
        return None
    names = [[f"{before}.{expert}.{own}" for own in _OWN[leaf]] for expert in range(shape[0])]
    parts = _headers(files, [part for own in names for part in own])
    if parts is None:
        return None
    first = [parts[part] for part in names[0]]
    if any(parts[part].shape != one.shape for own in names for part, one in zip(own, first, strict=True)):
        return None
    whole = (shape[0], sum(header.shape[0] for header in first), *first[0].shape[1:])
    return JoinedTensor(parts, replace(first[0], shape=whole), partial(_stack, names))


def _stack(names: list[list[str]], read: Callable[[str], Tensor]) -> Tensor:
    return torch.stack([torch.cat([read(part) for part in own]) for own in names])


def _from_blocks(files: LLMFiles, name: str) -> JoinedTensor | None:
    """Return how a tensor is made of MXFP4: 32 numbers of four bits share a power of two.

    Blocks are ``[E, rows, columns / 32, 16]`` uint8 and scales ``[E, rows, columns / 32]`` uint8; the tensor is
    ``[E, columns, rows]`` bf16, which holds each number exactly (OCP Microscaling Formats 1.0).
    """
    names = [f"{name}_blocks", f"{name}_scales"]
    parts = _headers(files, names)
    if parts is None or len(parts[names[0]].shape) != 4:
        return None
    experts, rows, groups, half = parts[names[0]].shape
    header = TensorHeader(parts[names[0]].path, torch.bfloat16, (experts, groups * half * 2, rows))
    return JoinedTensor(parts, header, partial(_decode, names))


def _decode(names: list[str], read: Callable[[str], Tensor]) -> Tensor:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    return convert_moe_packed_tensors(read(names[0]), read(names[1]), dtype=torch.bfloat16)


def _headers(files: LLMFiles, names: list[str]) -> dict[str, TensorHeader] | None:
    found = {name: files.headers[name][0] for name in names if name in files.headers}
    return found if len(found) == len(names) else None
