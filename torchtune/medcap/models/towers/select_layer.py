"""A tower whose patch tokens are those of an earlier layer: the layers after it are left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from medcap.errors import UserError
from medcap.models.towers.source import TowerSource

_LAYER = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")


def cut_layers(source: TowerSource, select_layer: int) -> TowerSource:
    """Leave out the layers after the one that is read; the last one that stays then gives that hidden state.

    Args:
        source: source of any tower.
        select_layer: select layer as in LLaVA's configurations.

    Raises:
        UserError: if it is another than the last of a tower that is not transformers', or there is no such layer.
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
    """Return how many layers give the hidden state that is read.

    Args:
        select_layer: index into the hidden states, of which number 0 goes into the first layer.
        num_layers: number of layers of the tower.

    Raises:
        UserError: if no layer is left, or there is no such one.
    """
    kept = select_layer if select_layer >= 0 else num_layers + 1 + select_layer
    if not 1 <= kept <= num_layers:
        raise UserError(f"the layer {select_layer} that is read is none of the tower's {num_layers}")
    return kept


def stays_below(kept: int) -> Callable[[str], str | None]:
    """Return the name of a tensor that belongs to none of the layers from ``kept`` on, else None."""

    def rename(name: str) -> str | None:
        layer = _LAYER.match(name)
        return None if layer and int(layer[1]) >= kept else name

    return rename
