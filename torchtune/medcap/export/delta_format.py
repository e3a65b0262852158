"""The format of a delta: the files of its folder, the arithmetic, and how it is matched with its base.

A delta has the tensors of a target model: the difference where the base has a tensor of the same name, and the
target's own tensor otherwise. Published deltas (LLaVA, LLaVA-Med 1.0) hold fp16 differences and no description. Ours
have a ``delta.json``, and differences of the bits unless another dtype was requested.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from medcap.checkpoints.llm_conversion import is_rotary_table
from medcap.checkpoints.llm_files import INDEX_FILE
from medcap.errors import UserError
from medcap.models.towers.tensor_files import TensorFiles, open_tensor_files, why_empty

DESCRIPTION_FILE = "delta.json"
EXACT = "exact"
SHARD_BYTES = 2 * 10**9
_PICKLE_INDEX = "pytorch_model.bin.index.json"
# In the order in which transformers looks for them, so that both read the same files.
_WEIGHTS = ("model.safetensors", INDEX_FILE, "pytorch_model.bin", _PICKLE_INDEX)
_COPIED_SUFFIXES = (".json", ".model", ".jinja", ".txt", ".md")
# The two tables that grow with new tokens. If another tensor differs in shape, the base is a different model.
_TABLES = ("embed_tokens.weight", "lm_head.weight")
_OF_LANGUAGE_MODEL = re.compile(r"(model\.)?(layers\.\d+|norm|embed_tokens|lm_head)\.")
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_BLOCK = 2**24
_ROWS = torch.contiguous_format


def open_weights(folder: Path, key: str) -> TensorFiles:
    """Open the weights of a model's folder, without precomputed rotary tables, as every library computes them.

    Args:
        folder: folder with safetensors files or ``pytorch_model*.bin``.
        key: option that names the folder, for messages.

    Returns:
        The tensors; none is read yet.

    Raises:
        UserError: if the folder has no weights, or a file is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{key} {folder} does not exist: give the folder of a model")
    name = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        raise UserError(f"{key} {folder} holds no weights: none of {', '.join(_WEIGHTS)}")
    tensors = open_tensor_files(folder / name)
    for tensor_name in sorted(tensors.names):
        if tensors[tensor_name].dtype in (None, torch.bool):
            raise UserError(f"{tensors[tensor_name].file}: tensor {tensor_name} holds no numbers of a known dtype")
    return tensors.renamed(lambda name: None if is_rotary_table(name) else name)


def copy_other_files(source: Path, target: Path) -> None:
    """Copy configuration, tokenizer and text files of a model's folder, without its weights.

    Args:
        source: folder of a model or a delta.
        target: folder to copy to; it must exist.
    """
    for path in sorted([*source.iterdir(), source / "original" / "tokenizer.model"]):
        is_index = path.name.endswith(".index.json") or path.name == DESCRIPTION_FILE
        wanted = path.suffix in _COPIED_SUFFIXES or path.name in ("LICENSE", "NOTICE")
        if path.is_file() and wanted and not is_index and not path.name.startswith("."):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)


def match(base: TensorFiles, other: TensorFiles, location: Path, other_is: str) -> dict[str, bool]:
    """Find which tensors of a target or a delta have a counterpart in the base.

    Args:
        base: tensors of the base.
        other: tensors of the target or the delta.
        location: folder of ``other``, for messages.
        other_is: "target" or "delta", for messages.

    Returns:
        Name -> whether the base has the tensor. Of a table that has grown, the base has the first rows.

    Raises:
        UserError: if the two do not belong together; the message names the tensor that shows it.
    """
    for name in sorted(base.names - other.names):
        raise UserError(f"{location}: tensor {name} of the base is missing, so this {other_is} belongs to another base")
    result = {}
    for name in sorted(other.names):
        if name not in base.names:
            if _OF_LANGUAGE_MODEL.match(name):
                raise UserError(
                    f"{location}: the base has no tensor {name}, so this {other_is} belongs to another base"
                )
            result[name] = False
            continue
        shape, base_shape = other[name].shape, base[name].shape
        grown = name.endswith(_TABLES) and shape[1:] == base_shape[1:] and shape[0] > base_shape[0]
        if shape != base_shape and not grown:
            raise UserError(
                f"{location}: tensor {name} has shape {list(shape)} and the base's {list(base_shape)}, so this"
                f" {other_is} belongs to another base{why_empty(shape)}"
            )
        result[name] = True
    if not any(result.values()):
        raise UserError(f"--{other_is} {location} has no tensor in common with --base: name the {other_is}'s own base")
    return result


def difference(target: Tensor, base: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Subtract the base from the target.

    Args:
        target: tensor of any shape.
        base: tensor of the same shape or with fewer rows, of any dtype. It is converted to the target's dtype first,
            as in LLaVA's make_delta.
        dtype: dtype of the result; None takes the difference of the bits, from which the target is restored exactly.

    Returns:
        The difference, in the target's shape; rows that the base does not have are the target's.
    """
    as_bits = dtype is None or not target.is_floating_point()
    if dtype is None or as_bits:
        result = bits(target.clone(memory_format=_ROWS))
    else:
        result = target.to(dtype, copy=True, memory_format=_ROWS)
    flat, above, below = result.view(-1), target.reshape(-1), base.reshape(-1)
    compute = torch.promote_types(target.dtype, torch.float32)
    for part in _blocks(below):
        under = below[part].to(target.dtype)
        if as_bits:
            flat[part] -= bits(under)
        else:
            flat[part] = (above[part].to(compute) - under.to(compute)).to(flat.dtype)
    return result


def restored(delta: Tensor, base: Tensor, dtype: torch.dtype) -> Tensor:
    """Add a base and a delta: the inverse of :func:`difference`.

    fp16 numbers are added in fp32 and rounded once. That gives the same sums as fp16 arithmetic, which LLaVA's
    apply_delta uses.

    Args:
        delta: the difference; integers are a difference of the bits.
        base: tensor of the same shape or with fewer rows, of any dtype.
        dtype: dtype of the target.

    Returns:
        The target.
    """
    as_bits = not delta.is_floating_point()
    result = delta.clone(memory_format=_ROWS) if as_bits else delta.to(dtype, copy=True, memory_format=_ROWS)
    flat, above, below = result.view(-1), delta.reshape(-1), base.reshape(-1)
    compute = torch.promote_types(dtype, torch.float32)
    for part in _blocks(below):
        under = below[part].to(dtype)
        if as_bits:
            flat[part] += bits(under)
        else:
            flat[part] = (under.to(compute) + above[part].to(compute)).to(dtype)
    return result.view(dtype) if as_bits else result


def bits(tensor: Tensor) -> Tensor:
    """View floating-point numbers as integers of the same size; return integers unchanged."""
    return tensor.view(_INTEGERS[tensor.dtype.itemsize]) if tensor.is_floating_point() else tensor


def bits_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that :func:`bits` gives."""
    return _INTEGERS[dtype.itemsize] if dtype.is_floating_point else dtype


def fingerprint(base: Tensor, dtype: torch.dtype) -> str:
    """Return the SHA-256 of a tensor of the base, converted to the target's dtype."""
    digest, flat = hashlib.sha256(), base.reshape(-1)
    for part in _blocks(flat):
        digest.update(flat[part].to(dtype).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _blocks(flat: Tensor) -> Iterator[slice]:
    """Divide a flat tensor into blocks, so that it is never copied to fp32 as a whole."""
    return (slice(start, min(start + _BLOCK, len(flat))) for start in range(0, len(flat), _BLOCK))
