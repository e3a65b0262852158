"""``medcap delta make``: write the differences of a target model from its base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcap.checkpoints.atomic import atomic_folder
from medcap.checkpoints.weight_shards import PendingTensor, write_shards
from medcap.export.delta_format import (
    DESCRIPTION_FILE,
    EXACT,
    SHARD_BYTES,
    bits_dtype,
    copy_other_files,
    difference,
    fingerprint,
    match,
    open_weights,
    restored,
)
from medcap.export.formats import DTYPES, check_empty
from medcap.files import write_json
from medcap.models.towers.tensor_files import StoredTensor, check_finite


@dataclass
class _Rounding:
    """Counts the numbers of the target that base and delta do not restore exactly."""

    changed: int = 0
    total: int = 0
    largest: float = 0.0

    def add(self, target: Tensor, back: Tensor) -> None:
        wrong = target != back
        self.total += target.numel()
        self.changed += int(wrong.sum())
        if self.changed and bool(wrong.any()):
            apart = (target[wrong].double() - back[wrong].double()).abs().max()
            self.largest = max(self.largest, float(apart))


def make_delta(base_folder: Path, target_folder: Path, out: Path, dtype: str = EXACT) -> list[str]:
    """Write a delta.

    Memory holds one tensor of each model at a time, and the shard that is being written.

    Args:
        base_folder: a model's folder, safetensors or ``pytorch_model*.bin``.
        target_folder: folder of a model that was trained from the base.
        out: folder to write; it must be new or empty.
        dtype: dtype of the differences: fp32, bf16 or fp16; "exact" takes differences of the bits.

    Returns:
        Lines that the user should see.

    Raises:
        UserError: if the two do not belong together, a file is damaged, or ``out`` is not empty.
    """
    check_empty(out)
    base, target = open_weights(base_folder, "--base"), open_weights(target_folder, "--target")
    in_base = match(base, target, target_folder, "target")
    stored = None if dtype == EXACT else DTYPES[dtype]
    rounding = _Rounding()
    table: dict[str, dict[str, Any]] = {}
    tensors = []
    for name, has_base in in_base.items():
        own = target[name]
        assert own.dtype is not None, "open_weights has refused it"
        table[name] = {"dtype": str(own.dtype).removeprefix("torch.")}
        if has_base:
            as_bits = stored is None or not own.dtype.is_floating_point
            written = bits_dtype(own.dtype) if as_bits or stored is None else stored
            read = _reader(own, base[name], stored, table[name], rounding)
        else:
            written, read = own.dtype, own.load
        tensors.append(PendingTensor(name, own.shape, written, read))
    with atomic_folder(out, marked=False) as folder:
        copy_other_files(target_folder, folder)
        write_shards(folder, tensors, SHARD_BYTES, "delta")
        write_json(folder / DESCRIPTION_FILE, {"format_version": 1, "differences": dtype, "tensors": table})
    extra = [name for name, has_base in in_base.items() if not has_base]
    notices = [f"{len(extra)} tensors that only the target has are stored whole, such as {extra[0]}"] if extra else []
    if rounding.changed:
        notices.append(
            f"{rounding.changed} of {rounding.total} numbers come back rounded, at most {rounding.largest:.2g} from the"
            f" target's; --dtype {EXACT} restores all of them"
        )
    return notices


def _reader(
    own: StoredTensor, base: StoredTensor, stored: torch.dtype | None, entry: dict[str, Any], rounding: _Rounding
) -> Any:
    def read() -> Tensor:
        target, below = own.load(), base.load()
        check_finite(target, own.file, own.name)
        check_finite(below, base.file, base.name)
        entry["base_sha256"] = fingerprint(below, target.dtype)
        delta = difference(target, below, stored)
        if stored is not None:
            rounding.add(target, restored(delta, below, target.dtype))
        return delta

    return read
