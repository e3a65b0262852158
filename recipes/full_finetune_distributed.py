"""Train a vision encoder and a projector through a frozen language model, on many devices."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from medcap.checkpoints.assembly import choose_dtype, plan_model
from medcap.configuration import recipe
from medcap.training.data import TrainingData
from medcap.training.keys import DISTRIBUTED_KEYS
from medcap.training.optimization import check_optimization
from medcap.training.parallelism import plan_parallelism
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
from medcap.training.world import join_world


class FullFinetuneRecipeDistributed:
    """Fine-tune the vision side of a model whose language model is frozen, on several processes.

    Everything of the single-device recipe, and:
        - ``parallelism=replicate``: the language model on every GPU; only what trains is synchronised.
        - ``parallelism=shard``: its layers are divided over the GPUs of a node (FSDP2), with ``cpu_offload`` kept in
          the memory of the host; ``auto`` replicates where it fits.
        - The optimizer state is divided over all processes where the optimizer allows it.
        - The mean is over the label tokens of all processes: with ``batch_size`` divided by their number, the steps are
          those of one process.
        - A checkpoint can be resumed on another number of processes.
        - A process that ends or hangs ends the run: ``timeout_minutes``.

    Args:
        cfg: checked against ``DISTRIBUTED_KEYS``.
    """

    def __init__(self, cfg: DictConfig) -> None:
        check_trainable(cfg.trainable)
        self.cfg = cfg
        self.world = join_world(cfg.device, cfg.timeout_minutes)

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
        dtype = choose_dtype(cfg.dtype, world.device)
        meta_model = wants_meta_model(cfg.save_meta_model, plan)
        parallelism = plan_parallelism(cfg, plan, world, dtype)
        data = TrainingData(cfg, plan.tokenizer, plan.vision.preprocess.transform(), world, plan.llm.continues_preamble)

        model = plan.load(parallelism.load_device, dtype, parallelism.after_layer)
        model.always_backward = parallelism.sharded
        self.proof = FrozenProof(cfg, plan, model)
        trained = TrainedPart(prepare_model(model, cfg), cfg.optimizer, world)
        seed_everything(cfg.seed + world.rank)
        if world.is_main:
            notes = [f"note: {notice}" for notice in plan.vision.notices]
            print(describe_parts(model), parallelism.why, trained.why, *notes, sep="\n", file=sys.stderr)
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
        """Prove that the language model is what it was on every process, and write ``summary.json``.

        Raises:
            RuntimeError: if a frozen weight changed.
        """
        fingerprints = self.proof.after()
        self.folder.end(self.trainer.summary() | fingerprints)
        self.proof.check(fingerprints)


@recipe(DISTRIBUTED_KEYS)
def recipe_main(cfg: DictConfig) -> None:
    """Entry point: ``tune run --nproc_per_node N medcap/recipes/full_finetune_distributed --config CONFIG ...``."""
    run_recipe(FullFinetuneRecipeDistributed(cfg))


if __name__ == "__main__":
    sys.exit(recipe_main())
