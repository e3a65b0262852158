"""Write what a run prints before its first step: its frozen and trained parts, and what comes from an earlier run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from medcap.checkpoints.build_model import EarlierRun, ModelPlan
from medcap.models.component_registry import further_components
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.modules.frozen_linear import UNQUANTISED, count_parameters, weights_of


def describe_parts(model: VisionLanguageModel, options: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Write the banner: every part, frozen or trained, with its parameter count and dtype.

    Args:
        model: model whose ``requires_grad`` flags are set.
        options: component -> its own optimizer arguments, such as ``lr``; they are shown at the end of its line.

    Returns:
        One line for each part.
    """
    weights = weights_of(model.decoder)
    layers = "" if weights == UNQUANTISED else f", layers in {weights}"
    language_model = _line("language model", count_parameters(model.decoder), next(model.decoder.parameters()))
    lines = [language_model + layers]
    for name, part in model.components.items():
        unused = part.unused(model.components)
        parameters = dict(part.named_parameters())
        if not parameters:
            lines.append(f"  {part.label:<20} has no parameters")
        for label, group in (
            (part.label, [value for key, value in parameters.items() if key not in unused]),
            (f"{name}, {part.unused_label}", [value for key, value in parameters.items() if key in unused]),
        ):
            if group:
                own = (options or {}).get(name, {}) if group[0].requires_grad else {}
                shown = "".join(f", {key} {value:g}" for key, value in own.items())
                lines.append(_line(label, sum(value.numel() for value in group), group[0]) + shown)
    return "\n".join(lines)


def untrained_notes(model: VisionLanguageModel, saved: Collection[str] = ()) -> list[str]:
    """Note the components beside tower and projector that have weights and do not learn.

    A decoder of boxes or masks that is configured and forgotten in ``trainable`` would answer at random.

    Args:
        model: model whose ``requires_grad`` flags are set.
        saved: components whose weights come from an earlier run.

    Returns:
        A line for each.
    """
    notes = []
    for name in further_components(model.components):
        parameters = list(model.components[name].parameters())
        if parameters and not any(value.requires_grad for value in parameters):
            start = "the earlier run left it" if name in saved else "it was built, without an earlier run's weights"
            notes.append(f"note: {name} is configured but not in 'trainable': it stays as {start}")
    return notes


def describe_start(plan: ModelPlan, start: EarlierRun) -> str:
    """Write which components continue from an earlier run, which start fresh, and which are left out.

    Args:
        plan: plan that was made from the earlier run.
        start: the earlier run.

    Returns:
        One line.
    """
    saved = plan.vision.saved
    assert saved is not None, "its components are planned from its checkpoint"
    elsewhere = [part.name for part in plan.further if part.parts]
    named = {
        "go on from it": [name for name in plan.components if name in saved.configs and name not in elsewhere],
        "start fresh": [name for name in plan.components if name not in saved.configs and name not in elsewhere],
        "start from the runs that llm_lora.experts names": elsewhere,
        "left out, as the configuration does not name them": [
            name for name in saved.configs if name not in plan.components
        ],
    }
    parts = [f"{', '.join(names)}: {what}" for what, names in named.items() if names]
    return f"{start} ({saved.path.parent.resolve().name}): {'; '.join(parts)}"


def _line(name: str, count: int, example: nn.Parameter) -> str:
    state = "trained" if example.requires_grad else "frozen"
    return f"  {name:<20} {state:<8} {count:>14,} parameters  {str(example.dtype).removeprefix('torch.')}"
