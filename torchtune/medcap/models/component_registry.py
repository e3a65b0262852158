"""The components that a model can have; a further one is a file and a line here."""

from __future__ import annotations

from collections.abc import Iterable

from medcap.models.box_decoder import BoxDecoder
from medcap.models.component import Component
from medcap.models.llm_lora import LanguageModelAdapters
from medcap.models.mask_decoders.base import MaskDecoder
from medcap.models.projectors.base import Projector
from medcap.models.region_encoders.base import RegionEncoder
from medcap.models.towers.base import Tower
from medcap.models.words import AddedWords

# In the order of the banner, the optimizer's parameters and the checkpoints.
_KINDS: tuple[type[Component], ...] = (
    Tower,
    Projector,
    LanguageModelAdapters,
    AddedWords,
    BoxDecoder,
    MaskDecoder,
    RegionEncoder,
)
COMPONENTS = {kind.name: kind for kind in _KINDS}
# A model always has these two. They fit each other and the language model, so they are planned together.
VISION_SIDE = (Tower.name, Projector.name)


def further_components(names: Iterable[str] | None = None) -> list[str]:
    """Return the names of the components other than tower and projector.

    Args:
        names: the components to choose from; None for all.
    """
    return [name for name in (COMPONENTS if names is None else names) if name not in VISION_SIDE]
