"""``medcap delta apply``: restore a target model from its base and a delta."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcap.checkpoints.atomic import atomic_folder
from medcap.checkpoints.weight_shards import PendingTensor, write_shards
from medcap.errors import UserError
from medcap.export.delta_format import (
    DESCRIPTION_FILE,
    SHARD_BYTES,
    copy_other_files,
    fingerprint,
    match,
    open_weights,
    restored,
)
from medcap.export.formats import check_empty
from medcap.models.towers.tensor_files import StoredTensor, TensorFiles, check_finite, read_json

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    )
}  # fmt: skip


def apply_delta(base_folder: Path, delta_folder: Path, out: Path) -> list[str]:
    """Write the target model as safetensors.

    Memory holds one tensor of the base and of the delta at a time, and the shard that is being written.

    Args:
        base_folder: a model's folder, safetensors or ``pytorch_model*.bin``.
        delta_folder: folder of a delta, from ``medcap delta make`` or LLaVA's make_delta.
        out: folder to write; it must be new or empty.

    Returns:
        Lines that the user should see.

    Raises:
        UserError: if the delta is for another base, a file is damaged, or ``out`` is not empty.
    """
    check_empty(out)
    base, delta = open_weights(base_folder, "--base"), open_weights(delta_folder, "--delta")
    in_base = match(base, delta, delta_folder, "delta")
    location = delta_folder / DESCRIPTION_FILE
    table = _table(location, delta) if location.is_file() else {}
    tensors = []
    for name, has_base in in_base.items():
        part, entry = delta[name], table.get(name, {})
        dtype = _DTYPES[entry["dtype"]] if entry else part.dtype
        assert dtype is not None, "open_weights has refused it"
        expected = entry.get("base_sha256")
        if entry and has_base != (expected is not None):
            raise UserError(
                f"{location}: the delta's tensor {name} was made "
                + ("without" if has_base else "with")
                + " one of the base, so it is for another base: name that as --base"
            )
        read = _reader(part, base[name], dtype, expected, location) if has_base else part.load
        tensors.append(PendingTensor(name, part.shape, dtype, read))
    with atomic_folder(out, marked=False) as folder:
        copy_other_files(delta_folder, folder)
        write_shards(folder, tensors, SHARD_BYTES, "target model")
    extra = [name for name, has_base in in_base.items() if not has_base]
    notices = [f"{len(extra)} tensors are the delta's own, such as {extra[0]}"] if extra else []
    if not table:
        notices.append(
            f"the delta has no {DESCRIPTION_FILE}, like all published ones: the base was checked by the names and"
            " shapes of its tensors only"
        )
    return notices


def _table(location: Path, delta: TensorFiles) -> Mapping[str, Mapping[str, Any]]:
    content = read_json(location)
    table = content.get("tensors")
    if content.get("format_version") != 1:
        raise UserError(f"{location}: format_version {content.get('format_version')!r} is unknown here; update medcap")
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise UserError(f"{location}: tensors is missing or damaged: copy the delta again")
    for name in sorted(delta.names | table.keys()):
        if name not in table or name not in delta.names or table[name].get("dtype") not in _DTYPES:
            raise UserError(f"{location} and the weights beside it do not agree on tensor {name}: download both again")
    return table


def _reader(
    part: StoredTensor, base: StoredTensor, dtype: torch.dtype, expected: str | None, location: Path
) -> Callable[[], Tensor]:
    def read() -> Tensor:
        delta, below = part.load(), base.load()
        check_finite(delta, part.file, part.name)
        check_finite(below, base.file, base.name)
        if expected is not None and fingerprint(below, dtype) != expected:
            raise UserError(
                f"{base.file}: tensor {base.name} has other numbers than the base that {location} was made from: the"
                " delta is for another base, to be named as --base"
            )
        return restored(delta, below, dtype)

    return read
