"""What every training recipe does first: seeds, the banner, and proof of what does not train."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from medcap.checkpoints.build_model import EarlierRun, ModelPlan
from medcap.checkpoints.frozen_llm import llm_fingerprint
from medcap.checkpoints.vision import check_llm
from medcap.errors import UserError
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.modules.frozen_linear import UNQUANTISED, count_parameters, weights_of
from medcap.training.keys import TrainingConfiguration
from medcap.training.trainable import set_trainable


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch.

    Args:
        seed: seed, from 0; NumPy gets its remainder within 32 bits.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def describe_parts(model: VisionLanguageModel, options: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Write the banner: every part, frozen or trained, with its parameter count and dtype.

    Args:
        model: its ``requires_grad`` flags are set.
        options: component -> arguments of the optimizer that it has of its own; they are shown behind it.
    """
    weights = weights_of(model.decoder)
    layers = "" if weights == UNQUANTISED else f", layers in {weights}"
    language_model = _line("language model", count_parameters(model.decoder), next(model.decoder.parameters()))
    lines = [language_model + layers]
    for name, part in model.components.items():
        unused = part.unused(model.components)
        parameters = dict(part.named_parameters())
        for label, group in (
            (part.label, [value for key, value in parameters.items() if key not in unused]),
            (f"{name}, unused head", [value for key, value in parameters.items() if key in unused]),
        ):
            if group:
                own = (options or {}).get(name, {}) if group[0].requires_grad else {}
                shown = "".join(f", {key} {value:g}" for key, value in own.items())
                lines.append(_line(label, sum(value.numel() for value in group), group[0]) + shown)
    return "\n".join(lines)


def describe_start(plan: ModelPlan, start: EarlierRun) -> str:
    """Write which components go on from an earlier run, which start fresh, and which are left out.

    Args:
        plan: plan that was made with the run.
        start: the earlier run.
    """
    saved = plan.vision.saved
    assert saved is not None, "its components are planned from its checkpoint"
    named = {
        "go on from it": [name for name in plan.components if name in saved.configs],
        "start fresh": [name for name in plan.components if name not in saved.configs],
        "left out, as the configuration does not name them": [
            name for name in saved.configs if name not in plan.components
        ],
    }
    parts = [f"{', '.join(names)}: {what}" for what, names in named.items() if names]
    return f"{start} ({saved.path.parent.resolve().name}): {'; '.join(parts)}"


def _line(name: str, count: int, example: nn.Parameter) -> str:
    state = "trained" if example.requires_grad else "frozen"
    return f"  {name:<20} {state:<8} {count:>14,} parameters  {str(example.dtype).removeprefix('torch.')}"


def checkpointed_layers(cfg: TrainingConfiguration, num_layers: int) -> int:
    """Return how many of the decoder's layers are computed again in the backward pass.

    Args:
        cfg: ``activation_memory_budget`` is the share of the layers whose activations are kept;
            ``enable_activation_checkpointing`` keeps none.
        num_layers: number of decoder layers.

    Raises:
        UserError: for a budget above 1, or two different answers.
    """
    budget = cfg.activation_memory_budget
    if budget > 1:
        raise UserError(f"activation_memory_budget={budget}: it is a share of the layers, from 0 to 1 (1 keeps all)")
    if cfg.enable_activation_checkpointing and 0 < budget < 1:
        raise UserError(
            f"activation_memory_budget={budget} and enable_activation_checkpointing=true, which is a budget of 0: give"
            " only one of them"
        )
    return num_layers if cfg.enable_activation_checkpointing else round(num_layers * (1 - budget))


def prepare_model(model: VisionLanguageModel, cfg: TrainingConfiguration) -> dict[str, nn.Parameter]:
    """Set what a configuration says of a loaded model.

    Args:
        model: changed in place.
        cfg: configuration of the training.

    Returns:
        The trainable parameters by name.
    """
    model.checkpointed_layers = checkpointed_layers(cfg, len(model.decoder.layers))
    if cfg.compile:
        model.compile_layers(static=cfg.dataset.get("packed", False))
    return set_trainable(model, cfg.trainable)


def wants_meta_model(wanted: bool | str, plan: ModelPlan) -> bool:
    """Return what the key ``save_meta_model`` means for a model.

    Args:
        wanted: True, False or ``auto``: where it is possible.
        plan: plan of the model.

    Raises:
        UserError: if medcap 2024's file is wanted but cannot hold the projector.
    """
    projector = plan.vision.projector_config["_component_"]
    possible = projector == "medcap.models.pooled_mlp"
    if wanted is True and not possible:
        raise UserError(
            "save_meta_model=true: medcap 2024's file can only hold projector=medcap.models.pooled_mlp, not"
            f" {projector}; use save_meta_model=auto or false"
        )
    return possible and wanted is not False


class FrozenWeightCheck:
    """Proof that the language model did not change: the fingerprint of its weights before and after.

    Args:
        cfg: ``verify_frozen`` says whether it is wanted.
        plan: plan of the model; gets a notice if ``vision_checkpoint`` was trained with another language model.
        model: model with its weights.

    Attributes:
        llm: what checkpoints remember of the language model: ``fingerprint`` is that of its weights in the decoder's
            dtype, unquantised, so that runs with different ``llm_weights`` can continue from each other's checkpoints
            without a notice; ``weights`` is their ``llm_weights``.
    """

    def __init__(self, cfg: TrainingConfiguration, plan: ModelPlan, model: VisionLanguageModel) -> None:
        self._decoder, self._wanted = model.decoder, cfg.verify_frozen
        weights = weights_of(model.decoder)
        self.llm = {"component": cfg.llm["_component_"], "dim": plan.llm.dim, "weights": weights, "fingerprint": None}
        self._before = None
        if self._wanted:
            self._before = llm_fingerprint(model.decoder)
            # Which language model it is does not depend on how it is quantised.
            unquantised = weights == UNQUANTISED
            self.llm["fingerprint"] = self._before if unquantised else plan.llm.fingerprint(model.dtype)
            check_llm(plan.vision, self.llm["fingerprint"])

    def after(self) -> dict[str, str | None]:
        """Both fingerprints, for ``summary.json``."""
        after = llm_fingerprint(self._decoder) if self._wanted else None
        return {"llm_sha256_before": self._before, "llm_sha256_after": after}

    @staticmethod
    def check(fingerprints: dict[str, str | None]) -> None:
        """See that nothing changed.

        Raises:
            RuntimeError: if a frozen weight changed.
        """
        before, after = fingerprints["llm_sha256_before"], fingerprints["llm_sha256_after"]
        # [Contract] the language model is never changed.
        if before != after:
            raise RuntimeError(f"the frozen language model changed: sha256 {before} before, {after} after")
