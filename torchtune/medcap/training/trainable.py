"""Which components train, and with which options of the optimizer: the key ``trainable``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from medcap.errors import UserError
from medcap.models import component
from medcap.models.component_registry import COMPONENTS
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.training.keys import TrainingConfiguration
from medcap.training.optimization import component_options


def check_trainable(names: Collection[str], there: Collection[str] = COMPONENTS, projector_learns: bool = True) -> None:
    """Check the key ``trainable``.

    Args:
        names: the components that are to learn.
        there: those that the model has.
        projector_learns: whether its projector has parameters.

    Raises:
        UserError: for an unknown component, none, or one that the model does not have, or if nothing can learn.
    """
    unknown = [name for name in names if name not in COMPONENTS]
    if unknown or not names:
        raise UserError(f"trainable={list(names)}: choose from {', '.join(COMPONENTS)}")
    for name in names:
        if name not in there:
            builder = COMPONENTS[name].builder or "..."
            raise UserError(f"trainable: this model has no {name}; add {name}._component_={builder} or leave it out")
    if not projector_learns and list(names) == ["projector"]:
        raise UserError("trainable=[projector]: this projector has no parameters, so nothing would learn: add vision")


def set_trainable(model: VisionLanguageModel, names: Collection[str]) -> dict[str, nn.Parameter]:
    """Set which components learn; the language model never does.

    Args:
        model: its ``requires_grad`` flags are set.
        names: some of the model's components.

    Returns:
        The trainable parameters, by their names in the model.

    Raises:
        UserError: for an unknown component, none, or one that the model does not have.
    """
    check_trainable(names, model.components)
    model.requires_grad_(False)
    component.set_gradient_flags(model.components, names)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def optimizer_options(model: VisionLanguageModel, cfg: TrainingConfiguration) -> dict[str, dict[str, Any]]:
    """Collect what the optimizer does otherwise for some parameters.

    Args:
        model: its ``requires_grad`` flags are set.
        cfg: ``trainable`` as a mapping has a learning rate and a weight decay for each component;
            ``weight_decay_of: matrices`` leaves out what has fewer than two dimensions: biases and norms.

    Returns:
        Name of a trained parameter in the model -> arguments of the optimizer, where it has its own.
    """
    own = {
        id(parameter): component_options(cfg.trainable, name)
        for name, component in model.components.items()
        for parameter in component.parameters()
    }
    options = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            options[name] = dict(own[id(parameter)])
            if cfg.weight_decay_of == "matrices" and parameter.dim() < 2:
                options[name]["weight_decay"] = 0.0
    return {name: found for name, found in options.items() if found}
