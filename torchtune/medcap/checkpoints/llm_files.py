"""The files of an LLM checkpoint: which they are, what their headers say, and their tensors one at a time."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from medcap.data.json_text import parse_json
from medcap.errors import UserError
from medcap.models.foreign_files import check_error_body, check_file, check_pickle, check_safetensors

INDEX_FILE = "model.safetensors.index.json"
_MOST_MAPPED_BYTES = 2**28
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_KEY = "checkpointer.checkpoint_dir"


@dataclass(frozen=True)
class TensorHeader:
    """The header's facts of a tensor, without its numbers; ``dtype`` is None if they are not floating-point."""

    path: Path
    dtype: torch.dtype | None
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return (self.dtype.itemsize if self.dtype else 1) * torch.Size(self.shape).numel()


@dataclass(frozen=True)
class JoinedTensor:
    """A tensor that is read from several of a file.

    Attributes:
        parts: name -> header of what it is made of.
        header: its own.
        join: makes it, with a function that reads a part by its name.
    """

    parts: dict[str, TensorHeader]
    header: TensorHeader
    join: Callable[[Callable[[str], torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class LLMFiles:
    """The files of a checkpoint and their headers.

    Attributes:
        folder: where they are.
        kind: "hugging_face" (safetensors) or "meta" (consolidated.*.pth).
        paths: the weight files, tensor-parallel pieces in their order.
        headers: tensor name -> its header in each file that has it.
        config: content of Hugging Face's config.json, None if there is none.
        params: content of Meta's params.json, None if there is none.
        joined: names in ``headers`` of tensors that are read from several.
    """

    folder: Path
    kind: str
    paths: tuple[Path, ...]
    headers: dict[str, list[TensorHeader]]
    config: dict[str, Any] | None
    params: dict[str, Any] | None
    joined: dict[str, JoinedTensor] = field(default_factory=dict)


def find_llm_files(checkpoint_dir: str | Path, checkpoint_files: Sequence[str] | None = None) -> LLMFiles:
    """Find an LLM's files and read their headers; no tensor is read.

    Without ``checkpoint_files``: the files of model.safetensors.index.json, else model*.safetensors, else
    original/consolidated.*.pth, else consolidated.*.pth.

    Args:
        checkpoint_dir: the folder as downloaded.
        checkpoint_files: file names in it, ``*.safetensors`` in Hugging Face's format or ``*.pth`` in Meta's.

    Returns:
        The files.

    Raises:
        UserError: if the folder or a file is missing, cut short or in another format.
    """
    if not checkpoint_dir:
        raise UserError(f"{_KEY} is missing: give the folder of the LLM's weights")
    folder = Path(checkpoint_dir)
    if not folder.is_dir():
        raise UserError(f"{_KEY}={folder}: no such folder; download the LLM there, or give the folder where it is")
    paths = _named_files(folder, checkpoint_files) if checkpoint_files else _present_files(folder)
    kind = "hugging_face" if paths[0].suffix == ".safetensors" else "meta"
    read = _safetensors_header if kind == "hugging_face" else _meta_header
    headers: dict[str, list[TensorHeader]] = {}
    for path in paths:
        for name, header in read(path).items():
            headers.setdefault(name, []).append(header)
    params = _read_json(paths[0].parent / "params.json") if kind == "meta" else None
    return LLMFiles(folder, kind, tuple(paths), headers, _read_json(folder / "config.json"), params)


def _named_files(folder: Path, names: Sequence[Any]) -> list[Path]:
    key = "checkpointer.checkpoint_files"
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{key} must be a list of file names in {folder}")
    paths = [folder / name for name in sorted(set(names))]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{key}: {path} does not exist; leave {key} out to take what is in the folder")
    if {path.suffix for path in paths} not in ({".safetensors"}, {".pth"}):
        raise UserError(f"{key}: give only .safetensors files (Hugging Face) or only consolidated.*.pth files (Meta)")
    return paths


def _present_files(folder: Path) -> list[Path]:
    index = _read_json(folder / INDEX_FILE)
    if index is not None:
        names = sorted(set(index.get("weight_map", {}).values()))
        for name in names:
            if not (folder / name).is_file() or Path(name).name != name:
                raise UserError(f"{_KEY}: {folder / INDEX_FILE} names {name}, which is not there; download it again")
        if names:
            return [folder / name for name in names]
    paths = sorted(folder.glob("model*.safetensors"))
    if paths:
        return paths
    for location in (folder / "original", folder):
        paths = sorted(path for path in location.glob("consolidated.*.pth") if re.fullmatch(r"\d+", path.name[13:-4]))
        for number, path in enumerate(paths):
            if int(path.name[13:-4]) != number:
                raise UserError(f"{_KEY}: {location} lacks consolidated.{number:02d}.pth; download it again")
        if paths:
            return paths
    other = "; its pytorch_model*.bin files cannot be used" if any(folder.glob("pytorch_model*.bin")) else ""
    raise UserError(
        f"{_KEY}={folder} holds no weights: neither model*.safetensors nor original/consolidated.*.pth{other}"
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    _check(check_file, path, True)
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{_KEY}: {path} is not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{_KEY}: {path} holds no JSON object; download it again")
    _check(check_error_body, path, content)
    return content


def _check(check: Callable[..., None], path: Path, *arguments: Any) -> None:
    try:
        check(path, *arguments)
    except UserError as error:
        raise UserError(f"{_KEY}: {error}") from None


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0][:200]
    return UserError(f"{_KEY}: {path} is cut short or no checkpoint ({reason}); download it again")


def _safetensors_header(path: Path) -> dict[str, TensorHeader]:
    headers = {}
    _check(check_safetensors, path)
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                part = file.get_slice(name)
                headers[name] = TensorHeader(path, _FLOATS.get(part.get_dtype()), tuple(part.get_shape()))
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    return headers


def _meta_header(path: Path) -> dict[str, TensorHeader]:
    _check(check_pickle, path)
    try:
        tensors = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise _damaged(path, error) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise UserError(f"{_KEY}: {path} is not a plain table of tensors, as Meta's consolidated.*.pth files are")
    return {
        name: TensorHeader(path, tensor.dtype if tensor.dtype.is_floating_point else None, tuple(tensor.shape))
        for name, tensor in tensors.items()
    }


def _tensor(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


class TensorReader:
    """Reads tensors one at a time, each over a memory map that is dropped again.

    Args:
        files: the checkpoint.
    """

    def __init__(self, files: LLMFiles) -> None:
        self._files = files
        self._maps: dict[Path, dict[str, torch.Tensor]] = {}
        self._mapped_bytes = 0
        # Pages once read of a memory-mapped file count as ours until it is unmapped: map it again now and then.
        total = sum(header.num_bytes for pieces in files.headers.values() for header in pieces)
        self._most_mapped_bytes = min(_MOST_MAPPED_BYTES, total // 8)

    def read(self, name: str, dim: int | None = None) -> torch.Tensor:
        """Read a tensor.

        Args:
            name: name as the file has it.
            dim: along which the files' pieces are concatenated; None takes the first file's.

        Returns:
            The tensor on the CPU. It may be in the memory map: copy it, and release it before the next one.
        """
        joined = self._files.joined.get(name)
        if joined is not None:
            return joined.join(lambda part: _tensor(joined.parts[part].path, part))
        headers = self._files.headers[name]
        if self._files.kind == "hugging_face":
            return _tensor(headers[0].path, name)
        headers = headers[:1] if dim is None else headers
        num_bytes = sum(header.num_bytes for header in headers)
        if self._mapped_bytes + num_bytes > self._most_mapped_bytes:
            self._maps.clear()
            self._mapped_bytes = 0
        self._mapped_bytes += num_bytes
        pieces = [self._map(header.path)[name] for header in headers]
        return pieces[0] if dim is None else torch.cat(pieces, dim)

    def _map(self, path: Path) -> dict[str, torch.Tensor]:
        if path not in self._maps:
            self._maps[path] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return self._maps[path]
