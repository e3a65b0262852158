"""Cut a tower after the layer whose patch tokens are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from medcap.errors import UserError
from medcap.models.towers.open_clip_tower import build_open_clip
from medcap.models.towers.source import TowerSource
from medcap.models.towers.timm_tower import TimmTower, trunk_layers
from medcap.models.towers.transformers_tower import FAMILIES


@dataclass(frozen=True)
class _Layers:
    """How the layers of a kind of tower are counted and left out.

    Attributes:
        count: number of layers; None where there are none to leave out.
        names: pattern of a layer's tensors, with its number.
        norm: start of the names of the final norm, which goes with the last layer; "" if it stays.
        cut: returns the specification with fewer layers.
    """

    count: int | None
    names: str
    norm: str
    cut: Callable[[dict[str, Any], int], dict[str, Any]]


def cut_layers(source: TowerSource, select_layer: int) -> TowerSource:
    """Leave out the layers after the one that is read, so that the output of the last layer is what is read.

    An earlier layer's output is read as it is: ``hidden_states`` of transformers. Whether the last layer's passes the
    final norm is the tower's own matter.

    Args:
        source: source of any tower.
        select_layer: index as in LLaVA's ``mm_vision_select_layer``: -1 is the last layer, -2 the one before it.

    Returns:
        The source of the shorter tower.

    Raises:
        UserError: if there is no such layer, or the tower has no layers that could be left out.
    """
    kept_names = stays_below(source, select_layer)
    if kept_names is None:
        return source
    layers = _layers(source)
    spec = layers.cut(source.spec, kept_layers(select_layer, layers.count or 0))
    return replace(source, spec=spec, weights=None if source.weights is None else source.weights.renamed(kept_names))


def stays_below(source: TowerSource, select_layer: int) -> Callable[[str], str | None] | None:
    """Return which tensors a tower keeps that is cut.

    Args:
        source: source of the whole tower.
        select_layer: as for :func:`cut_layers`.

    Returns:
        A function that keeps the names of tensors, but gives None for those that are left out; None if nothing is.

    Raises:
        UserError: in the cases of :func:`cut_layers`.
    """
    if select_layer == -1:
        return None
    layers = _layers(source)
    if layers.count is None:
        raise UserError(
            f"vision.select_layer={select_layer}: this {source.spec['kind']} tower is not a transformer whose layers"
            " could be left out; give -1, its last layer"
        )
    kept = kept_layers(select_layer, layers.count)
    if kept == layers.count:
        return None
    pattern = re.compile(layers.names)

    def rename(name: str) -> str | None:
        layer = pattern.match(name)
        left_out = (layer and int(layer[1]) >= kept) or (layers.norm and name.startswith(layers.norm))
        return None if left_out else name

    return rename


def kept_layers(select_layer: int, num_layers: int) -> int:
    """Return how many layers compute the hidden state that is read.

    Args:
        select_layer: index into the hidden states; 0 is the input of the first layer, -1 the output of the last.
        num_layers: number of layers of the tower.

    Raises:
        UserError: if no layer is left, or there is no such layer.
    """
    kept = select_layer if select_layer >= 0 else num_layers + 1 + select_layer
    if not 1 <= kept <= num_layers:
        raise UserError(
            f"the layer {select_layer} that is read is none of the tower's {num_layers}: use -{num_layers} to -1"
        )
    return kept


def _layers(source: TowerSource) -> _Layers:
    spec = source.spec
    if spec["kind"] == "hugging_face":
        count = spec["config"]["num_hidden_layers"]
        return _Layers(count, r"vision_model\.encoder\.layers\.(\d+)\.", "", _cut_config)
    if spec["kind"] == "transformers":
        norm = FAMILIES[spec["config"]["model_type"]].norm
        count = spec["config"].get("num_hidden_layers")
        names = r"model\.(?:encoder|model)\.layer\.(\d+)\."
        return _Layers(count, names, f"model.{norm}.", lambda spec, kept: {**_cut_config(spec, kept), "norm": False})
    if spec["kind"] == "open_clip" and "timm_model_name" not in spec["vision_cfg"]:
        layers = spec["vision_cfg"].get("layers", 12)
        count = layers if isinstance(layers, int) else None  # a ResNet has a list
        return _Layers(count, r"visual\.transformer\.resblocks\.(\d+)\.", "", _cut_key)
    if spec["kind"] in ("open_clip", "timm"):
        return _Layers(_count_blocks(source), r"trunk\.blocks\.(\d+)\.", "trunk.norm.", _cut_key)
    return _Layers(None, "", "", _cut_key)


def _cut_config(spec: dict[str, Any], kept: int) -> dict[str, Any]:
    config: Mapping[str, Any] = spec["config"]
    return {**spec, "config": {**config, "num_hidden_layers": kept}}


def _cut_key(spec: dict[str, Any], kept: int) -> dict[str, Any]:
    return {**spec, "layers": kept}


def _count_blocks(source: TowerSource) -> int | None:
    """Count the layers of a timm trunk, which only its construction tells."""
    build = TimmTower if source.spec["kind"] == "timm" else build_open_clip
    with torch.device("meta"):
        trunk = build(source.spec, source.preprocess).trunk
    assert isinstance(trunk, nn.Module)
    return trunk_layers(trunk)
