"""Cut a tower after the layer whose patch tokens are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from medcap.errors import UserError
from medcap.models.towers.source import TowerSource

_LAYER = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")


def cut_layers(source: TowerSource, select_layer: int) -> TowerSource:
    """Leave out the layers after the one that is read, so that the output of the last layer is what is read.

    Args:
        source: source of any tower.
        select_layer: index as in LLaVA's ``mm_vision_select_layer``: -1 is the last layer, -2 the one before it.

    Returns:
        The source of the shorter tower.

    Raises:
        UserError: if there is no such layer, or the tower is not one of transformers and the layer is not its last.
    """
    if source.spec["kind"] != "hugging_face":
        if select_layer != -1:
            raise UserError(
                f"the layer {select_layer}: only CLIP and SigLIP towers of transformers can be cut, and this is a"
                f" {source.spec['kind']} one; give layer -1 if the projector reads its last layer"
            )
        return source
    kept = kept_layers(select_layer, source.spec["config"]["num_hidden_layers"])
    spec = {**source.spec, "config": {**source.spec["config"], "num_hidden_layers": kept}}
    weights = source.weights
    return replace(source, spec=spec, weights=None if weights is None else weights.renamed(stays_below(kept)))


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


def stays_below(kept: int) -> Callable[[str], str | None]:
    """Return a function that keeps the names of tensors, but gives None for those of the layers from ``kept`` on."""

    def rename(name: str) -> str | None:
        layer = _LAYER.match(name)
        return None if layer and int(layer[1]) >= kept else name

    return rename
