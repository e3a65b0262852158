"""Tower and projector of LLaVA-like models: layers that are not read left out, names as ours have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcap.errors import UserError
from medcap.importing.imported_model import load_part
from medcap.models.projectors.base import Projector, build_projector
from medcap.models.towers.base import Tower
from medcap.models.towers.registry import build_tower, resolve_tower
from medcap.models.towers.select_layer import cut_layers, stays_below
from medcap.models.towers.source import TowerSource
from medcap.models.towers.tensor_files import why_empty

_MLP = {"_component_": "medcap.models.mlp"}
_LINEAR = {"_component_": "medcap.models.linear"}


def named_tower(vision: str, select_layer: int) -> tuple[Tower, list[str]]:
    """Return the tower that a name or folder means, cut to the layer that the model reads.

    Args:
        vision: vision as ``vision=`` takes it.
        select_layer: which hidden state: -1 is the last layer's output, -2 the one before.

    Returns:
        The tower with weights, and lines that the user should see.

    Raises:
        UserError: if there is none, or its layers cannot be counted.
    """
    source = cut_layers(resolve_tower(vision), select_layer)
    if source.weights is None:
        raise UserError(f"--vision {vision} has no weights: give its folder")
    tower = build_tower(source.spec, source.preprocess)
    load_part(tower, source.weights.read(), source.location or Path(vision), "the vision tower")
    return tower.eval(), source.notices


def padding_notices(config: Mapping[str, Any]) -> list[str]:
    """Say where a model learnt from views that our preprocessing does not have.

    Args:
        config: the model's config.json. With ``image_aspect_ratio: pad``, LLaVA's ``expand2square`` lays a picture on
            the middle of a square of the processor's mean colour before it is resized.

    Returns:
        One line, or none.
    """
    if config.get("image_aspect_ratio") != "pad":
        return []
    return [
        "this model was trained on pictures padded to a square; medcap crops or squashes them, so its answers differ"
        " for pictures that are not square: pad these to a square of the tower's mean colour before they are shown"
    ]


def tower_from_tensors(source: TowerSource, tensors: Mapping[str, Tensor], location: Path, select_layer: int) -> Tower:
    """Return a tower whose weights came with the model.

    Args:
        source: describes the whole tower.
        tensors: tensors under the tower's own names.
        location: location of the model, for messages.
        select_layer: select layer as in LLaVA's configurations.

    Raises:
        UserError: if the tensors do not fit.
    """
    cut = cut_layers(source, select_layer)
    tower = build_tower(cut.spec, cut.preprocess)
    stays = stays_below(source, select_layer)
    if stays is not None:
        tensors = {name: tensor for name, tensor in tensors.items() if stays(name)}
    load_part(tower, tensors, location, "the vision tower")
    return tower.eval()


def projector_from_tensors(tensors: Mapping[str, Tensor], tower: Tower, llm_dim: int, location: Path) -> Projector:
    """Build LLaVA's projector.

    Args:
        tensors: ``0.weight 0.bias 2.weight 2.bias`` of the two-layer one, ``weight bias`` of the linear one; a missing
            bias is zero, no tensor at all is the identity.
        tower: that it reads.
        llm_dim: width of the language model's embeddings.
        location: where the tensors come from, for messages.

    Returns:
        The projector.

    Raises:
        UserError: for another projector.
    """
    weights = dict(tensors)
    check_not_empty(weights, location)
    if not weights:
        if tower.shape.patch_dim != llm_dim:
            raise UserError(
                f"{location}: no projector, but the tower's patches have width {tower.shape.patch_dim} and the language"
                f" model {llm_dim}"
            )
        weights = {"weight": torch.eye(llm_dim)}
    for name in [name for name in weights if name.endswith("weight")]:
        weights.setdefault(name.removesuffix("weight") + "bias", torch.zeros(len(weights[name])))
    config = dict(_LINEAR)
    if "0.weight" in weights:
        hidden = len(weights["0.weight"])
        config = {**_MLP, **({} if hidden == llm_dim else {"hidden_dim": hidden})}
    projector = build_projector(config, tower.shape, llm_dim)
    load_part(projector, weights, location, "the projector")
    return projector


def check_not_empty(tensors: Mapping[str, Tensor], location: Path) -> None:
    """See that a projector's tensors have values.

    Raises:
        UserError: naming the first one without.
    """
    for name, tensor in tensors.items():
        if reason := why_empty(tensor.shape):
            raise UserError(f"{location}: tensor {name} of the projector has shape {list(tensor.shape)}{reason}")


def check_activation(name: str, location: Path) -> None:
    """See that the two-layer projector has the exact GELU.

    Raises:
        UserError: otherwise.
    """
    if name != "gelu":
        raise UserError(f"{location}: the projector's activation is {name}, and medcap.models.mlp has gelu")
