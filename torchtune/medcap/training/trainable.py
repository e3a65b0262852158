"""Which components train: the key ``trainable``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medcap.errors import UserError
from medcap.models import component
from medcap.models.component_registry import COMPONENTS
from medcap.models.vision_language_model import VisionLanguageModel


def check_trainable(names: Sequence[str]) -> None:
    """Check the key ``trainable``.

    Raises:
        UserError: for an unknown component, or none.
    """
    unknown = [name for name in names if name not in COMPONENTS]
    if unknown or not names:
        raise UserError(f"trainable={list(names)}: choose from {', '.join(COMPONENTS)}")


def set_trainable(model: VisionLanguageModel, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """Set which components learn; the language model never does.

    Args:
        model: its ``requires_grad`` flags are set.
        names: some of the model's components.

    Returns:
        The trainable parameters, by their names in the model.

    Raises:
        UserError: for an unknown component, none, or one that the model does not have.
    """
    check_trainable(names)
    for name in names:
        if name not in model.components:
            raise UserError(f"trainable: this model has no {name}; add {name}._component_=... or leave it out")
    model.requires_grad_(False)
    component.set_trainable(model.components, names)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
