"""What tells whether a language model's weights are the same: a hash of all bytes, and checksums made on the device."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from medcap.modules.frozen_linear import FrozenLinear

_HASH_ELEMENTS = 2**24
# Integers of as many bytes as a number has.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 22  # numbers that are summed together; each takes three integers of 8 bytes meanwhile


def llm_fingerprint(decoder: nn.Module, hashed: bool = True) -> str:
    """Return a number that is the same exactly when all weights are.

    Args:
        decoder: decoder on any device; a parameter under two names counts once. Where it is divided over processes, all
            of them must ask together, and get what the whole one gives.
        hashed: False only takes part in joining the weights, for another process that hashes them.

    Returns:
        sha256 in hexadecimal over name, dtype, shape and bytes of the parameters and, where weights are quantised, of
        the buffers that hold them, sorted by name.
    """
    digest = hashlib.sha256()
    for name, tensor in frozen_tensors(decoder):
        hash_tensor(digest, name, tensor.detach(), hashed)
    return digest.hexdigest() if hashed else ""


def frozen_tensors(decoder: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return the parameters of a decoder and the buffers that hold quantised weights, sorted by name.

    Args:
        decoder: decoder; a parameter under two names counts once.
    """
    quantised = {
        f"{location}.{name}": tensor
        for location, module in decoder.named_modules()
        if isinstance(module, FrozenLinear)
        for name, tensor in module.named_buffers()
    }
    return sorted({**dict(decoder.named_parameters()), **quantised}.items())


def hash_tensor(digest: hashlib._Hash, name: str, tensor: torch.Tensor, hashed: bool = True) -> None:
    """Add a weight to a hash: its name, dtype, shape and bytes.

    Args:
        digest: the hash.
        name: name of the weight.
        tensor: the weight, on any device.
        hashed: False only takes part in joining a divided weight.
    """
    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
    if not hashed and not isinstance(tensor, DTensor):
        return
    whole = _whole(tensor)
    if not hashed:
        return
    for part in whole.reshape(-1).split(_HASH_ELEMENTS):
        digest.update(part.cpu().view(torch.uint8).numpy().data)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    if not isinstance(tensor, DTensor):
        return tensor
    # What is offloaded to the CPU is still gathered by the devices.
    gathered: Any = tensor.to(tensor.device_mesh.device_type)
    return gathered.full_tensor()


def llm_checksums(decoder: nn.Module) -> list[int]:
    """Return a number for each weight that changes when one of the weight's numbers does.

    It is the sum of word * (2 * position + 1) modulo 2^64 over a weight's words. A single word that changes always
    changes it, as an odd factor has an inverse modulo 2^64; several changes cancel by a chance of about 2^-64.

    Args:
        decoder: decoder on any device. Where it is divided over processes, each looks at its own part.

    Returns:
        The checksums, sorted by the weights' names. The device is waited for once.
    """
    sums = [_checksum(tensor.detach()) for _, tensor in frozen_tensors(decoder)]
    # Weights may lie on more than one device.
    devices = dict.fromkeys(number.device for number in sums)
    found = {device: iter(torch.stack([one for one in sums if one.device == device]).tolist()) for device in devices}
    return [next(found[number.device]) for number in sums]


def _checksum(tensor: torch.Tensor) -> torch.Tensor:
    local: Any = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    words = local.reshape(-1).view(_WORDS[local.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=local.device)
    for start in range(0, words.numel(), _CHUNK):
        part = words[start : start + _CHUNK].to(torch.int64)
        factors = torch.arange(2 * start + 1, 2 * (start + len(part)), 2, device=local.device)
        total += (part * factors).sum()
    return total
