"""Nested values with tensors in them as two plain files: ``NAME.json`` for the structure, ``NAME.safetensors``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medcap.data.json_text import parse_json
from medcap.errors import UserError
from medcap.files import atomic_file, write_text
from medcap.models.foreign_files import check_file, check_safetensors

FORMAT_VERSION = 1
# What JSON has no word for is an object with this one key; a dict with such a key of its own is written as pairs.
_TUPLE, _PAIRS, _FLOAT, _TENSOR = "$tuple", "$pairs", "$float", "$tensor"
_DTYPES = {
    *(torch.bool, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    torch.complex64,
}
_TAGS = {_TUPLE, _PAIRS, _FLOAT, _TENSOR}


def save_tree(folder: Path, name: str, value: Any) -> None:
    """Write a nested value as ``name.json`` and ``name.safetensors``, each atomically.

    Args:
        folder: made if it is not there.
        name: name of both files, without a suffix.
        value: dicts with keys of str or int, lists, tuples, str, int, float (inf and nan too), bool, None and tensors
            of any dtype that safetensors has. Tensors that share memory are written once each.

    Raises:
        UserError: if something of another type is in it; the message says where.
    """
    tensors: dict[str, Tensor] = {}
    content = {"format_version": FORMAT_VERSION, "value": _encode(value, "", tensors)}
    # safetensors refuses two names for one memory, and a view would be written with all that it is a view of.
    seen: set[int] = set()
    for path, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensors[path] = tensor.clone()
        seen.add(storage.data_ptr())
    with atomic_file(folder / f"{name}.safetensors") as temporary:
        save_file(tensors, temporary)
    write_text(folder / f"{name}.json", json.dumps(content, allow_nan=False) + "\n")


def check_tree(value: Any) -> None:
    """Check, without writing, that ``save_tree`` can write a value.

    Args:
        value: any.

    Raises:
        UserError: if something of another type is in it; the message says where.
    """
    _encode(value, "", {})


def load_tree(folder: Path, name: str) -> Any:
    """Read what ``save_tree`` wrote: equal values of the same types, tensors bit for bit, on the CPU.

    Args:
        folder: holds both files.
        name: name of both files, without a suffix.

    Raises:
        UserError: if a file is missing or damaged.
    """
    structure, weights = folder / f"{name}.json", folder / f"{name}.safetensors"
    check_file(structure, text=True)
    check_safetensors(weights)
    try:
        content = parse_json(structure.read_text(encoding="utf-8"))
        version = content["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{structure} is missing or damaged: {_first_line(error)}") from error
    if version != FORMAT_VERSION:
        raise UserError(f"{structure}: format_version {version!r} is unknown here; update medcap")
    try:
        # A copy, because load_file maps the file into memory, and the file may be removed while the run continues.
        tensors = {path: tensor.clone() for path, tensor in load_file(weights).items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{weights} is missing or damaged: {_first_line(error)}") from error
    try:
        return _decode(content["value"], tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{structure} does not fit {weights.name}: {_first_line(error)}") from error


def map_tensors(value: Any, function: Callable[[str, Tensor], Tensor], path: str = "") -> Any:
    """Return a nested value with every tensor replaced; dicts, lists and tuples are new ones.

    Args:
        value: value in the form that ``save_tree`` takes.
        function: a tensor's path, such as ``optimizer/state/0/exp_avg``, and the tensor -> what to put there.
        path: path of the value itself.
    """
    if isinstance(value, Tensor):
        return function(path, value)
    if isinstance(value, dict):
        return {key: map_tensors(item, function, f"{path}/{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [map_tensors(item, function, f"{path}/{position}") for position, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    return value


class CpuCopies:
    """Copies of nested values on the CPU, in memory that the next copy uses again.

    Touching new memory takes the operating system several times as long as copying; a run copies the same tensors at
    every save. Memory for copies from a GPU is page-locked, where the system allows it.
    """

    def __init__(self) -> None:
        self._memory: dict[tuple[str, torch.Size, torch.dtype], Tensor] = {}

    def copy(self, value: Any) -> Any:
        """Copy a value; what the last call returned is overwritten.

        Args:
            value: value in the form that ``save_tree`` takes.

        Returns:
            An equal value that shares no memory with it.
        """
        before, self._memory = self._memory, {}
        devices: set[torch.device] = set()

        def copy(path: str, tensor: Tensor) -> Tensor:
            if tensor.is_cuda:
                devices.add(tensor.device)
            return self._copy(path, tensor.detach(), before)

        copied = map_tensors(value, copy)
        for device in devices:
            torch.cuda.synchronize(device)  # [Contract] the model may change as soon as this returns.
        return copied

    def _copy(self, path: str, tensor: Tensor, before: dict[tuple[str, torch.Size, torch.dtype], Tensor]) -> Tensor:
        if not _is_plain(tensor):
            return tensor.clone()  # save_tree says where it is and that it cannot be written
        key = (path, tensor.shape, tensor.dtype)
        if key in self._memory:
            # Two paths that are spelt alike, such as the keys 1 and "1".
            return tensor.to("cpu", copy=True)
        memory = before.get(key)
        if memory is None:
            memory = _new_memory(tensor)
        self._memory[key] = memory
        return memory.copy_(tensor, non_blocking=tensor.is_cuda)


def _new_memory(tensor: Tensor) -> Tensor:
    if tensor.is_cuda:
        try:
            return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        except RuntimeError:
            pass  # the system limits page-locked memory
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_meta


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: repr(float(value))}
    if isinstance(value, Tensor):
        return {_TENSOR: _add_tensor(value, path, tensors)}
    if isinstance(value, list):
        return [_encode(item, f"{path}/{position}", tensors) for position, item in enumerate(value)]
    if isinstance(value, tuple):
        return {_TUPLE: [_encode(item, f"{path}/{position}", tensors) for position, item in enumerate(value)]}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise UserError(f"state{path}: a key of type {type(key).__name__} cannot be written to a checkpoint")
        pairs = [(key, _encode(item, f"{path}/{key}", tensors)) for key, item in value.items()]
        if all(isinstance(key, str) for key in value) and _TAGS.isdisjoint(value):
            return dict(pairs)
        return {_PAIRS: [list(pair) for pair in pairs]}
    raise UserError(f"state{path}: a value of type {type(value).__name__} cannot be written to a checkpoint")


def _add_tensor(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    if not _is_plain(tensor) or tensor.dtype not in _DTYPES:
        kind = f"{type(tensor).__name__} of {tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise UserError(f"state{path}: a {kind} cannot be written to a checkpoint; use another optimizer")
    name = path.lstrip("/") or "value"
    while name in tensors:
        name += "'"  # two paths that are spelt alike, such as the keys 1 and "1"
    tensors[name] = tensor.detach().cpu().contiguous()
    return name


def _decode(content: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(content, list):
        return [_decode(item, tensors) for item in content]
    if not isinstance(content, dict):
        return content
    if len(content) == 1 and not _TAGS.isdisjoint(content):
        ((tag, inner),) = content.items()
        if tag == _TENSOR:
            return tensors[inner]
        if tag == _FLOAT:
            return float(inner)
        if tag == _TUPLE:
            return tuple(_decode(item, tensors) for item in inner)
        return {key: _decode(item, tensors) for key, item in inner}
    return {key: _decode(item, tensors) for key, item in content.items()}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
