"""The proof that the frozen language model did not change."""

from __future__ import annotations

from medcap.checkpoints.build_model import ModelPlan
from medcap.checkpoints.llm_fingerprint import llm_checksums, llm_fingerprint
from medcap.checkpoints.vision import check_llm
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.modules.frozen_linear import UNQUANTISED, weights_of
from medcap.training.distributed.context import DistributedContext
from medcap.training.keys import TrainingConfiguration


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
                before: str = world.gather(llm_fingerprint(model.decoder, hashed=world.is_main))[0]
            else:
                before = llm_fingerprint(model.decoder)
            self._before = before
            # Which language model it is does not depend on how it is quantised.
            unquantised = weights == UNQUANTISED
            fingerprint = before if unquantised else plan.llm.fingerprint(model.dtype)
            self.llm["fingerprint"] = fingerprint
            check_llm(plan.vision, fingerprint)

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
