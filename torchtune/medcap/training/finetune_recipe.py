"""Fine-tune through a frozen language model: the recipe for one process and for many."""

from __future__ import annotations

import sys

from medcap.checkpoints.build_model import EarlierRun, ModelPlan, choose_dtype, plan_model
from medcap.checkpoints.experts import starts_experts
from medcap.checkpoints.history import History, entries_of_descendant
from medcap.compiler import check_compiler
from medcap.datasets.mixture import MixedDataset
from medcap.datasets.source_keys import source_files
from medcap.models.component_registry import COMPONENTS
from medcap.models.llm_lora import LanguageModelAdapters
from medcap.training.banner import describe_parts, describe_start, untrained_notes
from medcap.training.data import TrainingData
from medcap.training.distributed.context import DistributedContext
from medcap.training.distributed.parallelism import plan_parallelism
from medcap.training.distributed.sharded_optimizer import ShardedOptimizer
from medcap.training.frozen_check import FrozenWeightCheck
from medcap.training.keys import DistributedConfiguration, TrainingConfiguration
from medcap.training.optimization import check_optimization
from medcap.training.reliability.run_folder import RunFolder
from medcap.training.setup import (
    chooses_by_question,
    compiles,
    prepare_model,
    seed_everything,
    speed_notes,
    wants_meta_model,
)
from medcap.training.trainable import check_trainable, optimizer_options
from medcap.training.trainer import Trainer


class FineTuneRecipe:
    """Fine-tune the components of a model whose language model is frozen.

    Features:
        - Packed rows, one copy of an image for all its questions: ``dataset.packed``, ``dataset.share_images``.
        - fp32 weights of what trains; the language model in ``dtype`` (bf16 on a GPU, fp32 on the CPU).
        - The gradient is that of the mean over all label tokens of the accumulated batches, whatever their shapes.
        - Any optimizer and learning-rate schedule: ``optimizer``, ``lr_scheduler``.
        - Loss on a held-out file: ``validation_source``, ``eval_every_n_steps`` (and at the end of each epoch).
        - Checkpoints by step, by minutes, by epoch and when a signal asks to stop, written in the background; exact
          resume: ``resume_from_checkpoint=latest``.
        - Damaged rows and steps that are not finite are skipped and named: ``max_bad_fraction``, ``max_bad_steps``.
        - Weights of an earlier run for the components that both have: ``init_from``.
        - Proof that the language model did not change: ``verify_frozen``.

    On several processes also:
        - ``parallelism=replicate``: the language model on every GPU; only what trains is synchronised.
        - ``parallelism=shard``: its layers are divided over the GPUs of a node (FSDP2), with ``cpu_offload`` kept in
          the memory of the host; ``auto`` replicates where it fits.
        - The optimizer state is divided over all processes where the optimizer allows it.
        - The mean is over the label tokens of all processes: with ``batch_size`` divided by their number, the steps are
          those of one process.
        - A checkpoint can be resumed on another number of processes.
        - A process that ends or hangs ends the run: ``timeout_minutes``.

    Args:
        cfg: a :class:`DistributedConfiguration` on several processes.
        world: the processes; one process is a world of size 1.

    Raises:
        UserError: if ``trainable`` names something that cannot be trained.
    """

    def __init__(self, cfg: TrainingConfiguration, world: DistributedContext) -> None:
        check_trainable(cfg.trainable)
        self.cfg, self.world = cfg, world

    def setup(self) -> None:
        """Check everything, then read the weights.

        Raises:
            UserError: if anything that the configuration names is missing, damaged or does not fit.
        """
        cfg, world = self.cfg, self.world
        seed_everything(cfg.seed)
        check_optimization(cfg, world.device)
        if compiles(cfg, world.device):
            check_compiler(world.device)
        self.folder = RunFolder(cfg, world)
        start = self._start()
        plan = plan_model(cfg, start)
        check_trainable(cfg.trainable, plan.components, plan.vision.projector_learns)
        dtype = choose_dtype(cfg.dtype, world.device)
        meta_model = wants_meta_model(cfg.save_meta_model, plan)
        parallelism = plan_parallelism(cfg, plan, world, dtype) if isinstance(cfg, DistributedConfiguration) else None
        # What is kept of a prompt prefix holds as long as the language model computes the same.
        by_question = chooses_by_question(cfg, plan)
        keeps_prefix = plan.llm.continues_prompt_prefix and not any(
            by_question or COMPONENTS[name].changes_language_model for name in cfg.trainable
        )
        transform, most = plan.vision.preprocess.transform(), plan.llm.max_seq_len
        data = TrainingData(
            cfg, plan.tokenizer, transform, world, keeps_prefix, most, not by_question, plan.own_picture
        )

        model = plan.load(world.device, dtype, None if parallelism is None else parallelism.after_layer)
        model.always_backward = parallelism is not None and parallelism.sharded
        self.proof = FrozenWeightCheck(cfg, plan, model, world)
        parameters = prepare_model(model, cfg)
        trained = ShardedOptimizer(parameters, cfg.optimizer, world, options=optimizer_options(model, cfg))
        if parallelism is not None:
            # Loading may have drawn a different number of values on each process.
            seed_everything(cfg.seed + world.rank)
        if world.is_main:
            chosen = [] if parallelism is None else [parallelism.why, trained.why]
            notes = [*(f"note: {notice}" for notice in plan.vision.notices), *speed_notes(cfg, world.device)]
            saved = plan.vision.saved
            notes += untrained_notes(model, () if saved is None else saved.configs)
            if start is not None and self.folder.resume_from is None:
                chosen.append(describe_start(plan, start))
            own = cfg.trainable if isinstance(cfg.trainable, dict) else {}
            sources = [data.dataset.describe()] if isinstance(data.dataset, MixedDataset) else []
            print(describe_parts(model, own), *sources, *chosen, *notes, sep="\n", file=sys.stderr)
        self.trainer = Trainer(
            cfg, world, model, trained, data, self.folder, self.proof.llm, meta_model, self._history(plan)
        )

    def _start(self) -> EarlierRun | None:
        """Return the run to take weights from; what resumes takes its own, wherever that run is by now."""
        cfg, resume = self.cfg, self.folder.resume_from
        has_experts = cfg.vision_checkpoint is None and starts_experts(getattr(cfg, LanguageModelAdapters.name), None)
        if resume is not None and (cfg.init_from is not None or has_experts):
            return EarlierRun(str(resume), "resume_from_checkpoint")
        return None if cfg.init_from is None else EarlierRun(cfg.init_from)

    def _history(self, plan: ModelPlan) -> History:
        """Return what the checkpoints say of the runs before this one; a resumed run reads it from its checkpoint."""
        cfg, saved = self.cfg, plan.vision.saved
        run = cfg.init_from or cfg.vision_checkpoint
        earlier = [] if saved is None or run is None else entries_of_descendant(saved.history, run)
        return History(earlier, list(cfg.trainable), source_files(cfg.dataset))

    def train(self) -> int:
        """Run all epochs.

        Returns:
            0 at the end of the training; 128 and the signal's number if a signal asked to stop.

        Raises:
            UserError: if too many rows are damaged, or too many steps in a row are not finite.
        """
        return self.trainer.train()

    def cleanup(self) -> None:
        """Prove that the language model is what it was, on every process, and write ``summary.json``.

        Raises:
            RuntimeError: if a frozen weight changed.
        """
        fingerprints = self.proof.after()
        self.folder.end(self.trainer.summary() | fingerprints)
        self.proof.check(fingerprints)
