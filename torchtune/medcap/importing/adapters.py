"""Make adapters of other systems the component ``llm_lora`` of an imported model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchtune.models.convert_weights import hf_to_tune

from medcap.checkpoints.llm_architecture import DecoderShape, build_decoder, describe, linear_shapes
from medcap.errors import UserError
from medcap.importing.adapter_files import AdapterFiles
from medcap.importing.imported_model import ImportedModel
from medcap.importing.language import named_language
from medcap.importing.llava_original import (
    DEFAULT_LAYER,
    check_vision_keys,
    projector_width,
    read_tower,
    vision_notices,
)
from medcap.importing.vision_parts import projector_from_tensors
from medcap.models.component import ComponentState
from medcap.models.llm_lora import ALL_LINEAR, TARGETS, llm_lora
from medcap.models.towers.tensor_files import read_json

# torchtune's name of a map within a layer -> its name in a Llama of Hugging Face.
_NAMES = {own: f"{'self_attn' if own.startswith('attn') else 'mlp'}.{name}" for name, own in TARGETS.items()}


@dataclass(frozen=True)
class _LinearMaps:
    """The part of a model plan that ``llm_lora`` uses."""

    shapes: dict[str, tuple[int, int]]

    @property
    def llm(self) -> _LinearMaps:
        return self

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        return self.shapes


def import_trained_folder(
    files: AdapterFiles, vision: str | None, select_layer: int | None, llm: Path | None, tokenizer: Path | None
) -> ImportedModel:
    """Read the projector, and the tower if it was trained, that a LLaVA-like trainer saved with adapters.

    Args:
        files: the adapters; call :func:`add_adapters` afterwards to read them.
        vision: the tower; None takes ``mm_vision_tower`` of the folder's config.json.
        select_layer: layer that the projector reads; None takes ``mm_vision_select_layer`` of that file.
        llm: folder of the language model; it must be given.
        tokenizer: a tokenizer.model to use instead of the one in ``llm``.

    Returns:
        The model, without its adapters.

    Raises:
        UserError: if projector, tower or language model is missing, or a part does not fit.
    """
    folder = files.location.parent
    if not files.projector.names:
        raise UserError(
            f"{folder} holds adapters and no projector: name the model that they belong to as SOURCE (a LLaVA folder,"
            f" a mm_projector.bin), and this folder as --adapters {folder}"
        )
    if llm is None:
        trained_for = f" ({files.base})" if files.base else ""
        raise UserError(f"{folder} holds adapters without their language model{trained_for}: give --llm FOLDER")
    config, location = {}, folder / "config.json"
    if location.is_file():
        config = read_json(location)
    layer = check_vision_keys(config, location, select_layer) if "mm_vision_tower" in config else select_layer
    named = vision or config.get("mm_vision_tower")
    if not named:
        raise UserError(f"{folder} does not say which tower its projector reads: give --vision FOLDER, such as CLIP's")
    language = named_language(llm, tokenizer)
    check_adapters(files, language.llm)
    weights = files.projector.read()
    width = projector_width(weights, files.further, language)
    own = files.tower.read()
    tower, notices = read_tower(own, files.further, named, DEFAULT_LAYER if layer is None else layer)
    projector = projector_from_tensors(weights, tower, width, files.further)
    return ImportedModel(tower, projector, width, language, notices=[*notices, *vision_notices(config)])


def take_projector(model: ImportedModel, files: AdapterFiles) -> None:
    """Replace a model's projector by the one that was trained with the adapters.

    Args:
        model: model that was read from another source; changed in place.
        files: the adapters; if they come without a projector, the model keeps its own.

    Raises:
        UserError: if the projector does not fit, or a tower was trained as well.
    """
    if files.tower.names:
        raise UserError(
            f"{files.further} holds a vision tower that was trained with the adapters: give its folder as SOURCE"
        )
    if files.projector.names:
        model.projector = projector_from_tensors(files.projector.read(), model.tower, model.llm_dim, files.further)


def add_adapters(model: ImportedModel, files: AdapterFiles) -> None:
    """Read adapters and add them to a model.

    Args:
        model: model that gets the adapters; changed in place.
        files: the adapters.

    Raises:
        UserError: if the model has no language model, or the adapters belong to another one.
    """
    if model.language is None:
        raise UserError(f"{files.location} holds adapters, which need their language model: give --llm FOLDER")
    config, shape = check_adapters(files, model.language.llm)
    tensors = files.updates.read()
    if files.half_rotation:
        tensors = {name: _rotated(name, tensor, shape) for name, tensor in tensors.items()}
    model.further.append(ComponentState("llm_lora", config, tensors))


def check_adapters(files: AdapterFiles, llm: Mapping[str, Any]) -> tuple[dict[str, Any], DecoderShape]:
    """Check the shapes of adapters against a language model.

    Args:
        files: the adapters.
        llm: value of the configuration's ``llm`` key.

    Returns:
        The configuration of ``llm_lora``, and the decoder's shape.

    Raises:
        UserError: if a tensor is missing or does not fit; the message names it.
    """
    decoder = build_decoder(llm)
    shapes = linear_shapes(decoder)
    adapted = {name.split(".", 2)[2].rsplit(".", 2)[0] for name in files.updates.names}
    targets = [name for name, own in TARGETS.items() if own in adapted]
    missing = sorted(files.targets.difference(targets))
    if missing:
        raise UserError(
            f"{files.location} holds no adapters of {missing[0]}, which target_modules names: copy the files again"
        )
    every = adapted == {name.split(".", 2)[2] for name in shapes}
    with torch.device("meta"):
        component = llm_lora(_LinearMaps(shapes), targets=ALL_LINEAR if every else targets, **files.options)
    expected = {name: tuple(tensor.shape) for name, tensor in component.state_dict().items()}
    files.updates.check(expected, files.location, f"llm_lora with r={component.rank} for this language model")
    return component.config(), describe(decoder)


def _rotated(name: str, tensor: Tensor, shape: DecoderShape) -> Tensor:
    """Put the rows of an update of queries or keys into torchtune's order; others stay as they are."""
    number, _, rest = name.removeprefix("layers.").partition(".")
    module, matrix, _ = rest.rsplit(".", 2)
    if matrix != "lora_b":
        return tensor
    heads = {"num_heads": shape.num_heads, "num_kv_heads": shape.num_kv_heads, "head_dim": shape.head_dim}
    # B, [out, rank], has the same rows as the weight that it is added to, so the weight's converter fits it.
    as_weight = {f"model.layers.{number}.{_NAMES[module]}.weight": tensor}
    (rotated,) = hf_to_tune(as_weight, dim=tensor.shape[1], **heads).values()
    return rotated.contiguous()
