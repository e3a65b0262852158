"""Tensors on their way into safetensors shards: read one at a time, never more than a shard in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from medcap.checkpoints.llm_files import INDEX_FILE
from medcap.files import write_json
from medcap.models.towers.tensor_files import check_finite

_LARGE_BYTES = 2**30


@dataclass(frozen=True)
class PendingTensor:
    """A tensor of a folder that is being written.

    Attributes:
        name: name in the file.
        shape: shape of the tensor.
        dtype: that it is stored in.
        read: returns its numbers, in any dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def write_shards(folder: Path, tensors: Sequence[PendingTensor], shard_bytes: int, title: str) -> None:
    """Write ``model.safetensors``, or ``model-00001-of-0000N.safetensors`` and their index.

    Args:
        folder: exists.
        tensors: tensors in the order in which they are read.
        shard_bytes: most bytes of one file; a larger tensor gets a file of its own.
        title: title of the progress bar, which only large models show.

    Raises:
        UserError: if a tensor holds NaN or infinity, or gets one in the dtype that it is stored in.
    """
    shards = list(_divide(tensors, shard_bytes))
    total = sum(tensor.num_bytes for tensor in tensors)
    weight_map: dict[str, str] = {}
    with tqdm(total=total, unit="B", unit_scale=True, desc=title, disable=total < _LARGE_BYTES) as progress:
        for number, shard in enumerate(shards, 1):
            numbered = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            file = "model.safetensors" if len(shards) == 1 else numbered
            content = {}
            for tensor in shard:
                # A separate copy: a view would keep the source's memory map alive, and may not be saved.
                content[tensor.name] = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.read())
                check_finite(content[tensor.name], f"{title} as {tensor.dtype}", tensor.name)
                weight_map[tensor.name] = file
                progress.update(tensor.num_bytes)
            path = folder / file
            path.touch()
            mode = path.stat().st_mode
            save_file(content, path, metadata={"format": "pt"})
            # safetensors puts a file in its place that only its owner may read, whatever the umask allows.
            path.chmod(mode)
            del content
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / INDEX_FILE, index)


def _divide(tensors: Sequence[PendingTensor], shard_bytes: int) -> Iterator[list[PendingTensor]]:
    shard: list[PendingTensor] = []
    filled = 0
    for tensor in tensors:
        if shard and filled + tensor.num_bytes > shard_bytes:
            yield shard
            shard, filled = [], 0
        shard.append(tensor)
        filled += tensor.num_bytes
    if shard:
        yield shard
