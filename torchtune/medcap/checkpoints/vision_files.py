"""Files of trained components: ``vision.safetensors`` with ``vision.json``, ``<name>.safetensors`` of further ones, and
medcap 2024's ``meta_model_*.pt``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from medcap.checkpoints.atomic import LATEST, is_complete, latest_checkpoint, step_of
from medcap.configuration import COMPONENT_ALIASES
from medcap.errors import UserError
from medcap.files import atomic_file, write_json
from medcap.models.component import ComponentState
from medcap.models.component_registry import COMPONENTS, VISION_SIDE
from medcap.models.preprocess import Preprocess
from medcap.models.towers.tensor_files import TensorFiles, open_tensor_files, read_json

WEIGHTS_FILE = "vision.safetensors"
DESCRIPTION_FILE = "vision.json"
FORMAT_VERSION = 1
# Of a description that names components beside tower and projector, which an earlier release would leave out.
FURTHER_VERSION = 2
POOLED_MLP = "medcap.models.pooled_mlp"
_FIELDS = {"tower": dict, "preprocess": dict, "projector": dict, "num_image_tokens": int, "llm": dict}


@dataclass
class SavedVision:
    """A checkpoint whose weights are not read yet.

    Attributes:
        path: the weights file of tower and projector.
        tower_spec: tower spec as ``Tower.spec``.
        preprocess: preprocess as ``Tower.preprocess``.
        projector_config: ``_component_`` and options.
        num_image_tokens: K.
        llm: what was saved about the language model: fingerprint, dim, component, weights.
        configs: configuration that rebuilds each component, by name, as ``Component.config`` returned it.
        tensors: tensors of each component, by component name, under their own names.
        history: entries of :class:`~medcap.checkpoints.history.History`; empty where none were kept.
    """

    path: Path
    tower_spec: dict[str, Any]
    preprocess: Preprocess
    projector_config: dict[str, Any]
    num_image_tokens: int
    llm: dict[str, Any]
    configs: dict[str, dict[str, Any]]
    tensors: dict[str, TensorFiles]
    history: list[dict[str, Any]] = field(default_factory=list)


def save_components(
    folder: Path,
    states: Sequence[ComponentState],
    llm: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the weights (fp32) of all components and then ``vision.json``, each file atomically.

    Tower and projector share ``vision.safetensors``; each further component has ``<name>.safetensors``.

    Args:
        folder: made if it is not there.
        states: states of the components.
        llm: what to remember of the language model: fingerprint, dim, component, weights.
        history: entries of :class:`~medcap.checkpoints.history.History`.
    """
    files: dict[str, dict[str, Tensor]] = {WEIGHTS_FILE: {}}
    description: dict[str, Any] = {"format_version": FORMAT_VERSION}
    further = {}
    for state in states:
        tensors = _stored(state.tensors, f"{state.name}.", torch.float32)
        if state.name in VISION_SIDE:
            files[WEIGHTS_FILE] |= tensors
            description |= state.config
        else:
            files[f"{state.name}.safetensors"] = tensors
            further[state.name] = dict(state.config)
    if further:
        description |= {"format_version": FURTHER_VERSION, "components": further}
    if history:
        description["history"] = [dict(entry) for entry in history]
    for name, tensors in files.items():
        with atomic_file(folder / name) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(folder / DESCRIPTION_FILE, description | {"llm": dict(llm)})


def save_meta_model(
    path: Path, tower: ComponentState, projector: ComponentState, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write medcap 2024's ``{'visual': state_dict, 'projector': state_dict}`` atomically.

    Args:
        path: ``meta_model_{epoch}.pt``.
        tower: any; BiomedCLIP's keys are those of open_clip's ``model.visual``.
        projector: projector of a ``pooled_mlp``, the only one that the format can describe.
        dtype: dtype of the stored tensors; medcap 2024's own files are bf16.

    Raises:
        UserError: for another projector.
    """
    if projector.config["projector"]["_component_"] != POOLED_MLP:
        raise UserError(f"{path}: a meta_model file can only hold projector={POOLED_MLP}")
    content = {"visual": _stored(tower.tensors, "", dtype), "projector": _stored(projector.tensors, "", dtype)}
    with atomic_file(path) as temporary:
        torch.save(content, temporary)


def find_vision_checkpoint(path: Path) -> Path:
    """Return the weights file that a path means.

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
        path: ``vision.safetensors``; ``vision.json`` is next to it.

    Raises:
        UserError: if a file is missing, damaged or of a later format.
    """
    description_path = path.parent / DESCRIPTION_FILE
    description = read_json(description_path)
    version = description.get("format_version")
    if version not in (FORMAT_VERSION, FURTHER_VERSION):
        raise UserError(f"{description_path}: format_version {version!r} is unknown here; update medcap")
    for name, kind in _FIELDS.items():
        if not isinstance(description.get(name), kind):
            raise UserError(f"{description_path}: {name} is missing or damaged")
    try:
        preprocess = Preprocess.from_dict(description["preprocess"])
    except UserError as error:
        raise UserError(f"{description_path}: {error}") from error
    component = description["projector"].get("_component_")
    if component in COMPONENT_ALIASES:
        description["projector"]["_component_"] = COMPONENT_ALIASES[component]
    tensors = open_tensor_files(path)
    # A projector without parameters has no tensors.
    check_sections(tensors, path, [f"{name}." for name in VISION_SIDE], needed=["vision."])
    configs = {
        "vision": {name: description[name] for name in ("tower", "preprocess")},
        "projector": {name: description[name] for name in ("projector", "num_image_tokens")},
    }
    weights = {name: tensors.under(f"{name}.") for name in VISION_SIDE}
    for name, config in description.get("components", {}).items():
        if name not in COMPONENTS:
            raise UserError(f"{description_path}: the component {name} is unknown here; update medcap")
        configs[name] = config
        weights[name] = open_tensor_files(path.with_name(f"{name}.safetensors")).under(f"{name}.")
    return SavedVision(
        path,
        description["tower"],
        preprocess,
        description["projector"],
        description["num_image_tokens"],
        description["llm"],
        configs,
        weights,
        _history(description, description_path),
    )


def _history(description: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    history = description.get("history", [])
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise UserError(f"{path}: history is damaged: it is a list of runs, each a mapping")
    return history


def check_sections(
    tensors: TensorFiles, path: Path, prefixes: Sequence[str], needed: Sequence[str] | None = None
) -> None:
    """See that a file holds tensors under each needed prefix, and under no others than all of them.

    Args:
        tensors: tensors of the file.
        path: path of the file, for messages.
        prefixes: all prefixes that may be there.
        needed: the prefixes that must be there; None for all.

    Raises:
        UserError: naming the prefix or the tensor.
    """
    for prefix in prefixes if needed is None else needed:
        if not tensors.under(prefix).names:
            raise UserError(f"{path} holds no tensor named {prefix}*, so it is no vision checkpoint")
    for name in sorted(tensors.names):
        if not name.startswith(tuple(prefixes)):
            raise UserError(f"{path}: tensor {name} is neither {' nor '.join(f'{prefix}*' for prefix in prefixes)}")


def _stored(tensors: Mapping[str, Tensor], prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors on the CPU under a prefix, floating-point ones in ``dtype``."""
    return {
        prefix + name: tensor.detach()
        .to(device="cpu", dtype=dtype if tensor.is_floating_point() else tensor.dtype)
        .contiguous()
        for name, tensor in tensors.items()
    }
