"""Named tensors in files: shapes are read at once, values only on request."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medcap.data.json_text import parse_json
from medcap.errors import UserError
from medcap.models.foreign_files import check_error_body, check_file, check_pickle, check_safetensors

PICKLE_SUFFIXES = (".pt", ".pth", ".bin")
# Names of dtypes in safetensors headers.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# The errors of torch.load for damaged files, besides its refusal to run code.
_UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError)
_ZERO3 = (
    "; it is empty, as DeepSpeed's ZeRO-3 saves tensors that were not gathered: save the model again with"
    " stage3_gather_16bit_weights_on_model_save, or gather its checkpoint with zero_to_fp32.py"
)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file.

    Attributes:
        file: file that holds it.
        name: what the file calls it.
        shape: shape from the header.
        dtype: dtype from the header; None for one that torch has not.
        load: reads it; the result may be a view of the memory-mapped file.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    load: Callable[[], Tensor]


class TensorFiles:
    """Tensors by name, from any number of files.

    Args:
        tensors: name -> tensor.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = dict(tensors)

    @property
    def names(self) -> set[str]:
        """All names."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, from the header."""
        return self._tensors[name].shape

    def __getitem__(self, name: str) -> StoredTensor:
        """Return one tensor, unread."""
        return self._tensors[name]

    def renamed(self, new_name: Callable[[str], str | None]) -> TensorFiles:
        """Return the same tensors under other names; a tensor is left out if ``new_name`` returns None for it."""
        pairs = ((new_name(name), tensor) for name, tensor in self._tensors.items())
        return TensorFiles({name: tensor for name, tensor in pairs if name is not None})

    def under(self, prefix: str) -> TensorFiles:
        """Return the tensors whose name begins with ``prefix``, without it."""
        return self.renamed(lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None)

    def check(self, expected: Mapping[str, tuple[int, ...]], location: Path, purpose: str) -> None:
        """Compare names and shapes with what a module needs.

        Args:
            expected: name -> shape, nothing more and nothing less.
            location: file or folder to name when a tensor is missing.
            purpose: what needs the tensors, for the message.

        Raises:
            UserError: naming the file, the tensor and the shapes.
        """
        for name, shape in expected.items():
            stored = self._tensors.get(name)
            if stored is not None and stored.shape != tuple(shape):
                raise UserError(
                    f"{stored.file}: tensor {stored.name} has shape {list(stored.shape)}, "
                    f"but {purpose} needs {list(shape)}{why_empty(stored.shape)}"
                )
        missing = [name for name in expected if name not in self._tensors]
        if missing:
            shape = list(expected[missing[0]])
            raise UserError(f"{location}: tensor {missing[0]} {shape} of {purpose} is missing{_and_more(missing)}")
        extra = [name for name in self._tensors if name not in expected]
        if extra:
            stored = self._tensors[extra[0]]
            raise UserError(
                f"{stored.file}: tensor {stored.name} with shape {list(stored.shape)} "
                f"has no place in {purpose}{_and_more(extra)}"
            )

    def read(self) -> dict[str, Tensor]:
        """Read everything.

        Returns:
            Floating-point tensors as fp32, others as stored, none sharing memory with a file.

        Raises:
            UserError: naming file and tensor, if one holds NaN or infinity.
        """
        loaded = {}
        for name, stored in self._tensors.items():
            tensor = stored.load()
            check_finite(tensor, stored.file, stored.name)
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            loaded[name] = tensor.to(dtype, copy=True)
        return loaded


def check_finite(tensor: Tensor, location: Path | str, name: str) -> None:
    """See that weights are numbers: one NaN in them makes every answer nonsense, without an error.

    Args:
        tensor: tensor of any dtype and shape.
        location: file or folder that it is from, for the message.
        name: name of the tensor there.

    Raises:
        UserError: naming place and tensor.
    """
    # A sum is finite only where all values are, and needs no mask as large as the tensor.
    if not tensor.is_floating_point() or tensor.is_meta or torch.isfinite(tensor.sum(dtype=torch.float32)):
        return
    count = int((~torch.isfinite(tensor)).sum())
    if not count:
        return  # Only the sum was too large.
    raise UserError(
        f"{location}: {count} of {tensor.numel()} values of tensor {name} are NaN or infinite, as after an overflow in"
        " fp16 or a diverged training: use another checkpoint, or save it again in fp32 or bf16"
    )


def why_empty(shape: Sequence[int]) -> str:
    """Return the reason for a tensor without values, as the end of a message; "" for any other tensor."""
    return _ZERO3 if 0 in shape else ""


def open_tensor_files(path: Path) -> TensorFiles:
    """Open a tensor file and read its header.

    Args:
        path: ``*.safetensors``, ``*.index.json`` (shards in the same folder), or a ``.pt``, ``.pth`` or
            ``.bin`` file, which only the weights-only loader touches. Tables inside such a file are flattened with
            dots: ``{"visual": {"x": ...}}`` gives ``visual.x``.

    Raises:
        UserError: if the file is damaged, a shard is missing, or a pickle holds anything but tensors.
    """
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    if path.suffix == ".safetensors":
        return TensorFiles(_open_safetensors(path))
    if path.suffix in PICKLE_SUFFIXES:
        return TensorFiles(_open_pickle(path))
    raise UserError(f"{path}: not a tensor file; expected .safetensors, .pt, .pth or .bin")


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file.

    Raises:
        UserError: if the file is missing or holds something else.
    """
    check_file(path, text=True)
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON; copy or download it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object")
    check_error_body(path, value)
    return value


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    check_safetensors(path)
    try:
        file = safe_open(path, framework="pt")
        tensors = {}
        for name in file.keys():  # noqa: SIM118 (not a dict: it cannot be iterated)
            part = file.get_slice(name)
            shape, dtype = tuple(part.get_shape()), _DTYPES.get(part.get_dtype())
            tensors[name] = StoredTensor(path, name, shape, dtype, lambda name=name: file.get_tensor(name))
        return tensors
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is missing or damaged; copy or download it again") from error


def _open_shards(index: Path) -> TensorFiles:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise UserError(f"{index} has no weight_map; download it again")
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(table.values())):
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise UserError(f"{index} names the shard {shard!r}, which is not a plain file name")
        tensors |= (_open_safetensors if shard.endswith(".safetensors") else _open_pickle)(index.parent / shard)
    missing = sorted(set(table) - set(tensors))
    if missing:
        raise UserError(f"{index} names tensor {missing[0]}, which {table[missing[0]]} does not hold")
    return TensorFiles(tensors)


def _open_pickle(path: Path) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    check_pickle(path)
    try:
        # Files from before torch 1.6 are not zip archives and cannot be memory-mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors and is refused: a pickle can run code; save it again as safetensors"
        ) from error
    except _UNREADABLE as error:
        raise UserError(f"{path} is damaged or not a torch.save file; copy or download it again") from error
    tensors: dict[str, StoredTensor] = {}
    _flatten(content, "", path, tensors)
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    return tensors


def _flatten(content: Any, prefix: str, path: Path, tensors: dict[str, StoredTensor]) -> None:
    if isinstance(content, Tensor):
        name = prefix.removesuffix(".")
        tensors[name] = StoredTensor(path, name, tuple(content.shape), content.dtype, lambda: content)
    elif isinstance(content, Mapping):
        for key, value in content.items():
            _flatten(value, f"{prefix}{key}.", path, tensors)
    else:
        raise UserError(f"{path}: {prefix.removesuffix('.') or 'the file'} is not a tensor; only tensors can be read")


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
