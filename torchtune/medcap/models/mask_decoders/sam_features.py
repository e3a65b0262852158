"""The features of a frozen encoder, kept: in memory while masks are asked for, and on disk between epochs."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medcap.data.storage.cache import load_entry, store_entry

# One answer can name many objects of one image, and those of a batch can be about several.
_MOST_IN_MEMORY = 16


class KeptFeatures:
    """Features of pictures by what decides them: the picture's pixels, the weights and the precision.

    A picture's pixels say which file it is of, how it is looked at and how it was made square.

    Args:
        encode: ``[P, 3, S, S]`` uint8 -> ``[P, c, h, w]`` each.
        fingerprint: of the weights.
        folder: where they are kept on disk; None keeps them in memory only.
    """

    def __init__(self, encode: Callable[[Tensor], list[Tensor]], fingerprint: str, folder: Path | None) -> None:
        self._encode, self._fingerprint, self._folder = encode, fingerprint, folder
        self._memory: OrderedDict[str, list[Tensor]] = OrderedDict()

    def of(self, pictures: Tensor, dtype: torch.dtype, in_memory: bool) -> list[Tensor]:
        """Return the features of pictures, computed where they are not kept.

        Args:
            pictures: ``[P, 3, S, S]`` uint8.
            dtype: precision that they are computed in.
            in_memory: whether those of the last pictures are kept there, too.

        Returns:
            ``[P, c, h, w]`` each, float32.
        """
        keys = [self._key(picture, dtype) for picture in pictures]
        found = {key: self._kept(key, pictures.device) for key in keys}
        missing = [number for number, key in enumerate(keys) if found[key] is None]
        if missing:
            computed = self._encode(pictures[missing])  # [p, c, h, w] each
            for place, number in enumerate(missing):
                one = [level[place] for level in computed]
                found[keys[number]] = one
                self._store(keys[number], one)
        kept = [found[key] or [] for key in keys]
        if in_memory:
            for key, one in zip(keys, kept, strict=True):
                self._memory[key] = one
                self._memory.move_to_end(key)
            while len(self._memory) > _MOST_IN_MEMORY:
                self._memory.popitem(last=False)
        return [torch.stack(level).float() for level in zip(*kept, strict=True)]

    def _key(self, picture: Tensor, dtype: torch.dtype) -> str:
        digest = hashlib.sha256(f"1 {self._fingerprint} {dtype} {tuple(picture.shape)}".encode())
        digest.update(picture.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def _kept(self, key: str, device: torch.device) -> list[Tensor] | None:
        if key in self._memory:
            return self._memory[key]
        entry = None if self._folder is None else load_entry(self._folder / key[:2] / key)
        if entry is None:
            return None
        levels = [entry.arrays[str(number)] for number in range(len(entry.arrays))]
        return [_tensor(level, entry.notes["dtype"]).to(device) for level in levels]

    def _store(self, key: str, levels: Sequence[Tensor]) -> None:
        if self._folder is None:
            return
        arrays = {str(number): _array(level) for number, level in enumerate(levels)}
        store_entry(self._folder / key[:2] / key, arrays, {"dtype": str(levels[0].dtype)})


def _array(level: Tensor) -> np.ndarray:
    """As numpy has it, which knows no bfloat16: its bits are kept as whole numbers."""
    level = level.detach().cpu().contiguous()
    return (level.view(torch.int16) if level.dtype == torch.bfloat16 else level).numpy()


def _tensor(array: np.ndarray, dtype: str) -> Tensor:
    tensor = torch.from_numpy(np.array(array))
    return tensor.view(torch.bfloat16) if dtype == str(torch.bfloat16) else tensor
