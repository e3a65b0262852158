"""Train a vision encoder and a projector through a frozen language model, on one device."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from medcap.checkpoints.assembly import choose_device, choose_dtype, plan_model
from medcap.configuration import recipe
from medcap.training.data import TrainingData
from medcap.training.keys import TRAINING_KEYS
from medcap.training.optimization import check_optimization
from medcap.training.program import run_recipe
from medcap.training.run_folder import RunFolder
from medcap.training.setup import (
    FrozenProof,
    check_trainable,
    describe_parts,
    prepare_model,
    seed_everything,
    wants_meta_model,
)
from medcap.training.trained_part import TrainedPart
from medcap.training.trainer import Trainer
from medcap.training.world import single_world


class FullFinetuneRecipeSingleDevice:
    """Fine-tune the vision side of a model whose language model is frozen.

    Features:
        - Packed rows, one copy of an image for all its questions: ``dataset.packed``, ``dataset.share_images``.
        - fp32 weights of what trains; the language model in ``dtype`` (bf16 on a GPU, fp32 on the CPU).
        - The gradient is that of the mean over all label tokens of the accumulated batches, whatever their shapes.
        - Any optimizer and learning-rate schedule: ``optimizer``, ``lr_scheduler``.
        - Loss on a held-out file: ``validation_source``, ``eval_every_n_steps`` (and at the end of each epoch).
        - Checkpoints by step, by minutes, by epoch and when a signal asks to stop, written behind the training; exact
          resume: ``resume_from_checkpoint=latest``.
        - Damaged rows and steps that are not finite are skipped and named: ``max_bad_fraction``, ``max_bad_steps``.
        - Proof that the language model did not change: ``verify_frozen``.

    Args:
        cfg: checked against ``TRAINING_KEYS``.
    """

    def __init__(self, cfg: DictConfig) -> None:
        check_trainable(cfg.trainable)
        self.cfg = cfg
        self.world = single_world(choose_device(cfg.device))

    def setup(self) -> None:
        """Check everything, then read the weights.

        Raises:
            UserError: if anything that the configuration names is missing, damaged or does not fit.
        """
        cfg, world = self.cfg, self.world
        seed_everything(cfg.seed)
        check_optimization(cfg, world.device)
        self.folder = RunFolder(cfg, world)
        plan = plan_model(cfg)
        meta_model = wants_meta_model(cfg.save_meta_model, plan)
        data = TrainingData(cfg, plan.tokenizer, plan.vision.preprocess.transform(), world, plan.llm.continues_preamble)

        model = plan.load(world.device, choose_dtype(cfg.dtype, world.device))
        self.proof = FrozenProof(cfg, plan, model)
        trained = TrainedPart(prepare_model(model, cfg), cfg.optimizer, world)
        notes = [f"note: {notice}" for notice in plan.vision.notices]
        print(describe_parts(model), *notes, sep="\n", file=sys.stderr)
        projector, llm = plan.vision.projector_config, self.proof.llm
        self.trainer = Trainer(cfg, world, model, trained, data, self.folder, projector, llm, meta_model)

    def train(self) -> int:
        """Run all epochs.

        Returns:
            0 at the end of the training; 128 and the signal's number if a signal asked to stop.

        Raises:
            UserError: if too many rows are damaged, or too many steps in a row are not finite.
        """
        return self.trainer.train()

    def cleanup(self) -> None:
        """Prove that the language model is what it was, and write ``summary.json``.

        Raises:
            RuntimeError: if a frozen weight changed.
        """
        fingerprints = self.proof.after()
        self.folder.end(self.trainer.summary() | fingerprints)
        self.proof.check(fingerprints)


@recipe(TRAINING_KEYS)
def recipe_main(cfg: DictConfig) -> None:
    """Entry point: ``tune run medcap/recipes/full_finetune_single_device --config CONFIG [key=value ...]``."""
    run_recipe(FullFinetuneRecipeSingleDevice(cfg))


if __name__ == "__main__":
    sys.exit(recipe_main())
