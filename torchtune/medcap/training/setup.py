"""What every training recipe does first: seeds, the banner, and proof of what does not train."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn

from medcap.checkpoints.build_model import ModelPlan
from medcap.checkpoints.llm_fingerprint import llm_checksums, llm_fingerprint
from medcap.checkpoints.vision import check_llm
from medcap.errors import UserError
from medcap.models.lora_experts import SEQUENCE, TOKEN
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.modules.frozen_linear import UNQUANTISED, weights_of
from medcap.training.distributed.context import DistributedContext
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


def chooses_by_question(cfg: TrainingConfiguration, plan: ModelPlan) -> bool:
    """Return whether a model chooses its experts once for each question, so that questions can share nothing.

    Args:
        cfg: configuration of the training.
        plan: plan of the model.

    Raises:
        UserError: if what is learnt begins within the question, whose end would not be known.
    """
    if not any(part.config.get("router") == SEQUENCE for part in plan.further):
        return False
    for key in ("train_on_input", "train_on_header"):
        if cfg.dataset.get(key):
            raise UserError(
                f"dataset.{key}=true: llm_lora.router={SEQUENCE} reads the words before the first that is learnt, as"
                f" generation has them; set dataset.{key}=false, or router={TOKEN}"
            )
    return True


def wants_meta_model(wanted: bool | str, plan: ModelPlan) -> bool:
    """Return what the key ``save_meta_model`` means for a model.

    Args:
        wanted: True, False or ``auto``: where it is possible.
        plan: plan of the model.

    Raises:
        UserError: if medcap 2024's file is wanted but cannot hold the projector.
    """
    projector = plan.vision.projector_config["_component_"]
    possible = projector == "medcap.models.pooled_mlp" and not plan.vision.preprocess.tiles
    if wanted is True and plan.vision.preprocess.tiles:
        raise UserError("save_meta_model=true: medcap 2024's file cannot say vision.tiles; use save_meta_model=auto")
    if wanted is True and not possible:
        raise UserError(
            "save_meta_model=true: medcap 2024's file can only hold projector=medcap.models.pooled_mlp, not"
            f" {projector}; use save_meta_model=auto or false"
        )
    return possible and wanted is not False


class FrozenWeightCheck:
    """Proof that the language model did not change: the fingerprint of its weights before and after.

    On a GPU, the fingerprint is made once and by the first process, as its hash needs all weights on the host. There,
    every process compares a checksum of each weight, made on the device, before and after. Only if one differs is the
    fingerprint made again.

    Args:
        cfg: ``verify_frozen`` says whether it is wanted.
        plan: plan of the model; gets a notice if ``vision_checkpoint`` was trained with another language model.
        model: model with its weights.
        world: processes of the run, which all make the proof.

    Attributes:
        llm: what checkpoints remember of the language model: ``fingerprint`` is that of its weights in the decoder's
            dtype, unquantised, so that runs with different ``llm_weights`` can continue from each other's checkpoints
            without a notice; ``weights`` is their ``llm_weights``.
    """

    def __init__(
        self, cfg: TrainingConfiguration, plan: ModelPlan, model: VisionLanguageModel, world: DistributedContext
    ) -> None:
        self._decoder, self._wanted, self._world = model.decoder, cfg.verify_frozen, world
        weights = weights_of(model.decoder)
        self.llm = {"component": cfg.llm["_component_"], "dim": plan.llm.dim, "weights": weights, "fingerprint": None}
        self._before: str | None = None
        self._checksums: list[int] | None = None
        if self._wanted:
            if world.device.type == "cuda":
                self._checksums = llm_checksums(model.decoder)
                self._before = world.gather(llm_fingerprint(model.decoder, hashed=world.is_main))[0]
            else:
                self._before = llm_fingerprint(model.decoder)
            # Which language model it is does not depend on how it is quantised.
            unquantised = weights == UNQUANTISED
            self.llm["fingerprint"] = self._before if unquantised else plan.llm.fingerprint(model.dtype)
            check_llm(plan.vision, self.llm["fingerprint"])

    def after(self) -> dict[str, str | None]:
        """Both fingerprints, for ``summary.json``."""
        after = self._after() if self._wanted else None
        return {"llm_sha256_before": self._before, "llm_sha256_after": after}

    def _after(self) -> str | None:
        if self._checksums is not None:
            changed = llm_checksums(self._decoder) != self._checksums
            # A weight that is divided is joined by all.
            if not any(self._world.sum([float(changed)])):
                return self._before
        return llm_fingerprint(self._decoder)

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
