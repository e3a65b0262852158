"""Files of a trained vision side: ``vision.safetensors`` with ``vision.json``, and medcap's ``meta_model_*.pt``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medcap.checkpoints.atomic import LATEST, atomic_file, is_complete, latest_checkpoint, step_of, write_json
from medcap.errors import UserError
from medcap.models.projectors.base import Projector
from medcap.models.towers.base import Preprocess, Tower
from medcap.models.towers.tensor_files import TensorFiles, open_tensor_files, read_json

WEIGHTS_FILE = "vision.safetensors"
DESCRIPTION_FILE = "vision.json"
FORMAT_VERSION = 1
_FIELDS = {"tower": dict, "preprocess": dict, "projector": dict, "num_image_tokens": int, "llm": dict}


@dataclass
class SavedVision:
    """A vision checkpoint whose weights are not read yet.

    Attributes:
        path: the weights file.
        tower_spec: as ``Tower.spec``.
        preprocess: as ``Tower.preprocess``.
        projector_config: ``_component_`` and options.
        num_image_tokens: K.
        llm: what was saved about the language model: fingerprint, dim, component, weights.
        tensors: under ``vision.`` and ``projector.``.
    """

    path: Path
    tower_spec: dict[str, Any]
    preprocess: Preprocess
    projector_config: dict[str, Any]
    num_image_tokens: int
    llm: dict[str, Any]
    tensors: TensorFiles


def save_vision(
    folder: Path, tower: Tower, projector: Projector, projector_config: Mapping[str, Any], llm: Mapping[str, Any]
) -> None:
    """Write ``vision.safetensors`` (fp32) and then ``vision.json``, each atomically.

    Args:
        folder: made if it is not there.
        tower: its state goes under ``vision.``.
        projector: its state goes under ``projector.``.
        projector_config: ``_component_`` and options that built the projector.
        llm: what to remember of the language model: fingerprint, dim, component, weights.
    """
    tensors = {**_state(tower, "vision.", torch.float32), **_state(projector, "projector.", torch.float32)}
    with atomic_file(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    description = {
        "format_version": FORMAT_VERSION,
        "tower": tower.spec,
        "preprocess": tower.preprocess.to_dict(),
        "projector": dict(projector_config),
        "num_image_tokens": projector.num_image_tokens,
        "llm": dict(llm),
    }
    write_json(folder / DESCRIPTION_FILE, description)


def save_meta_model(path: Path, tower: Tower, projector: Projector, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write medcap's ``{'visual': state_dict, 'projector': state_dict}`` atomically.

    Args:
        path: ``meta_model_{epoch}.pt``.
        tower: any; BiomedCLIP's keys are those of open_clip's ``model.visual``.
        projector: a ``pooled_mlp``, the only one that the format can describe.
        dtype: of the stored tensors; medcap's own files are bf16.

    Raises:
        UserError: for another projector.
    """
    if projector.takes != "pooled" or set(projector.state_dict()) != {"0.weight", "0.bias", "2.weight", "2.bias"}:
        raise UserError(f"{path}: a meta_model file can only hold projector=medcap.models.pooled_mlp")
    content = {"visual": _state(tower, "", dtype), "projector": _state(projector, "", dtype)}
    with atomic_file(path) as temporary:
        torch.save(content, temporary)


def find_vision_checkpoint(path: Path) -> Path:
    """The weights file that a path means.

    Args:
        path: ``vision.safetensors``, its folder, a folder of steps or its ``latest``, or a run's folder.

    Returns:
        The file; of several steps the newest complete one.

    Raises:
        UserError: if there is none, or a step folder lacks its marker.
    """
    if path.is_file() and path.suffix == ".safetensors":
        return path
    folder: Path | None = path
    if path.is_file() and path.name == LATEST:
        folder = latest_checkpoint(path.parent)
    elif not path.exists():
        raise UserError(f"vision checkpoint {path} does not exist")
    elif not (path / DESCRIPTION_FILE).is_file():
        folder = latest_checkpoint(path)
    if folder is None:
        raise UserError(
            f"{path} holds neither {DESCRIPTION_FILE} nor a complete checkpoint/step_* folder; "
            "a base model's folder goes into vision="
        )
    if step_of(folder.resolve()) is not None and not is_complete(folder):
        newest = latest_checkpoint(folder.parent)
        raise UserError(
            f"{folder} was not written completely (no COMPLETE in it); "
            + (f"the newest complete one is {newest}" if newest else "there is no complete one beside it")
        )
    return folder / WEIGHTS_FILE


def read_vision_checkpoint(path: Path) -> SavedVision:
    """Read a checkpoint's description and the header of its weights.

    Args:
        path: ``vision.safetensors``; ``vision.json`` lies beside it.

    Raises:
        UserError: if a file is missing, damaged or of a later format.
    """
    description_path = path.parent / DESCRIPTION_FILE
    description = read_json(description_path)
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(f"{description_path}: format_version {version!r} is unknown here; update medcap")
    for name, kind in _FIELDS.items():
        if not isinstance(description.get(name), kind):
            raise UserError(f"{description_path}: {name} is missing or damaged")
    try:
        preprocess = Preprocess.from_dict(description["preprocess"])
    except UserError as error:
        raise UserError(f"{description_path}: {error}") from error
    return SavedVision(
        path,
        description["tower"],
        preprocess,
        description["projector"],
        description["num_image_tokens"],
        description["llm"],
        open_tensor_files(path),
    )


def _state(module: nn.Module, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """A module's state on the CPU, its floating-point tensors in ``dtype``."""
    state = {}
    for name, tensor in module.state_dict().items():
        tensor = tensor.detach().to(device="cpu", dtype=dtype if tensor.is_floating_point() else tensor.dtype)
        state[prefix + name] = tensor.contiguous()
    return state
