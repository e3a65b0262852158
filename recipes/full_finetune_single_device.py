"""Train a vision encoder and a projector through a frozen language model, on one device."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torchtune.training.metric_logging import MetricLoggerInterface

from medcap.checkpoints.assembly import MODEL_KEYS, choose_device, choose_dtype, plan_model
from medcap.checkpoints.atomic import write_text
from medcap.checkpoints.frozen_llm import llm_fingerprint
from medcap.checkpoints.vision import check_llm
from medcap.configuration import Component, Value, build, recipe
from medcap.data.batch import Batch
from medcap.datasets.chat import BadRow, ChatDataset
from medcap.errors import UserError
from medcap.training.checkpointing import Position, RunCheckpoints, find_resume_folder
from medcap.training.metering import MetricsFile, Progress, SpeedMeter, peak_memory_bytes
from medcap.training.optimization import build_optimizer, build_scheduler, scale_and_clip
from medcap.training.setup import check_trainable, describe_parts, iterate_batches, seed_everything, set_trainable

KEYS = MODEL_KEYS | {
    "output_dir": Value((str,)),
    "trainable": Value((list,), ["vision", "projector"]),
    "dataset": Component(passed=1, default="medcap.datasets.chat_dataset"),
    "validation_source": Value((str,), None),
    "seed": Value((int,), 0),
    "shuffle": Value((bool,), True),
    "batch_size": Value((int,), 4, minimum=1),
    "epochs": Value((int,), 1, minimum=1),
    "max_steps_per_epoch": Value((int,), None, minimum=1),
    "gradient_accumulation_steps": Value((int,), 1, minimum=1),
    "optimizer": Component(passed=1),
    "lr_scheduler": Component(passed=1, optional=True, given=("num_training_steps",)),
    "clip_grad_norm": Value((float,), None, minimum=0),
    "loss_chunk_size": Value((int,), 1024, minimum=1),
    "compile": Value((bool,), False),
    "enable_activation_checkpointing": Value((bool,), False),
    "num_workers": Value((int,), 4, minimum=0),
    "check_images": Value((int,), 1000, minimum=0),
    "max_bad_fraction": Value((float,), 0.0, minimum=0),
    "max_bad_steps": Value((int,), 10, minimum=1),
    "metric_logger": Component(optional=True),
    "log_every_n_steps": Value((int,), 1, minimum=1),
    "eval_every_n_steps": Value((int,), None, minimum=1),
    "save_every_n_steps": Value((int,), None, minimum=1),
    "save_every_minutes": Value((float,), None, minimum=0),
    "save_meta_model": Value((bool, str), False, choices=(True, False, "auto")),
    "keep_last": Value((int,), None, minimum=1),
    "resume_from_checkpoint": Value((bool, str), False),
    "verify_frozen": Value((bool,), True),
}


class FullFinetuneRecipeSingleDevice:
    """Fine-tune the vision side of a model whose language model is frozen.

    Features:
        - Packed rows, one copy of an image for all its questions: ``dataset.packed``, ``dataset.share_images``.
        - fp32 weights of what trains; the language model in ``dtype`` (bf16 on a GPU, fp32 on the CPU).
        - The gradient is that of the mean over all label tokens of the accumulated batches, whatever their shapes.
        - Any optimizer and learning-rate schedule: ``optimizer``, ``lr_scheduler``.
        - Loss on a held-out file: ``validation_source``, ``eval_every_n_steps`` (and at the end of each epoch).
        - Checkpoints by step, by minutes and by epoch; exact resume: ``resume_from_checkpoint=latest``.
        - Proof that the language model did not change: ``verify_frozen``.

    Args:
        cfg: checked against ``KEYS``.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        check_trainable(cfg.trainable)
        self.device = choose_device(cfg.device)
        self.dtype = choose_dtype(cfg.dtype, self.device)
        self.output_dir = Path(cfg.output_dir)
        self.position = Position()
        self.bad_rows: set[str] = set()
        self.bad_steps = 0

    def setup(self) -> None:
        """Check everything, then read the weights.

        Raises:
            UserError: if anything that the configuration names is missing, damaged or does not fit.
        """
        cfg = self.cfg
        seed_everything(cfg.seed)
        plan = plan_model(cfg)
        self.dataset: ChatDataset = build(cfg.dataset, plan.tokenizer)
        self.validation = None
        if cfg.validation_source is not None:
            self.validation = build({**cfg.dataset, "source": cfg.validation_source}, plan.tokenizer)
        self._check_rows()
        self.save_meta_model = self._wants_meta_model(plan.vision.projector_config["_component_"])
        self.transform = plan.vision.preprocess.transform()
        checkpoint_folder = Path(cfg.checkpointer.output_dir or self.output_dir / "checkpoint")
        resume_from = find_resume_folder(cfg.resume_from_checkpoint, checkpoint_folder)

        self.model = plan.load(self.device, self.dtype)
        self.model.checkpoint_layers = cfg.enable_activation_checkpointing
        if cfg.compile:
            for layer in self.model.decoder.layers:
                layer.compile()
        self.trainable = set_trainable(self.model, cfg.trainable)
        self.llm = {"component": cfg.llm._component_, "dim": plan.llm.dim, "fingerprint": None}
        if cfg.verify_frozen:
            self.llm["fingerprint"] = llm_fingerprint(self.model.decoder)
            check_llm(plan.vision, self.llm["fingerprint"])
        for notice in plan.vision.notices:
            print(f"note: {notice}", file=sys.stderr)
        self.checkpoints = RunCheckpoints(checkpoint_folder, plan.vision.projector_config, self.llm, cfg.keep_last)
        print(describe_parts(self.model), file=sys.stderr)

        self.plans_per_epoch = [len(self._plan(epoch)) for epoch in range(cfg.epochs)]
        self.steps_per_epoch = [-(-plans // cfg.gradient_accumulation_steps) for plans in self.plans_per_epoch]
        self.total_steps = sum(self.steps_per_epoch)
        optimizer_node = OmegaConf.to_container(cfg.optimizer, resolve=True)
        self.optimizer = build_optimizer(optimizer_node, self.trainable.values())
        self.scheduler = build_scheduler(cfg.lr_scheduler, self.optimizer, self.total_steps)
        if resume_from is not None:
            self.position = self.checkpoints.restore(resume_from, self.model, self.optimizer, self.scheduler)
            print(f"resuming from {resume_from}, step {self.position.step}", file=sys.stderr)
        self._setup_logging()

    def _wants_meta_model(self, projector: str) -> bool:
        wanted, possible = self.cfg.save_meta_model, projector == "medcap.models.pooled_mlp"
        if wanted is True and not possible:
            raise UserError(
                "save_meta_model=true: medcap's file can only hold projector=medcap.models.pooled_mlp, not"
                f" {projector}; use save_meta_model=auto or false"
            )
        return possible and wanted is not False

    def _check_rows(self) -> None:
        for dataset in (self.dataset, self.validation):
            if dataset is None:
                continue
            bad = dataset.bad + dataset.check_images(self.cfg.check_images)
            if len(bad) > self.cfg.max_bad_fraction * dataset.num_rows:
                raise UserError(
                    f"{len(bad)} of {dataset.num_rows} rows cannot be used, the first: {bad[0].reason};"
                    f" mend or remove them, or allow some with max_bad_fraction={len(bad) / dataset.num_rows:.2g}"
                )
            self._count_bad(dataset.bad)

    def _count_bad(self, bad: list[BadRow]) -> None:
        for row in bad:
            if row.name not in self.bad_rows:
                self.bad_rows.add(row.name)
                print(f"skipped {row.name}: {row.reason}", file=sys.stderr)
        if len(self.bad_rows) > self.cfg.max_bad_fraction * self.dataset.num_rows:
            raise UserError(
                f"{len(self.bad_rows)} of {self.dataset.num_rows} rows turned out to be damaged, more than"
                f" max_bad_fraction={self.cfg.max_bad_fraction} allows; the last: {bad[-1].reason}"
            )

    def _setup_logging(self) -> None:
        cfg = self.cfg
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_text(self.output_dir / "config.yaml", OmegaConf.to_yaml(cfg))
        node = {} if cfg.metric_logger is None else OmegaConf.to_container(cfg.metric_logger)
        log_dir = node.get("log_dir") or str(self.output_dir / "log")
        self.loggers: list[MetricLoggerInterface] = [MetricsFile(log_dir)]
        if node:
            self.loggers.append(build(node))

    def _plan(self, epoch: int) -> list[Any]:
        cfg = self.cfg
        plans = self.dataset.plan(cfg.batch_size, cfg.seed, epoch, cfg.shuffle)
        limit = cfg.max_steps_per_epoch
        return plans if limit is None else plans[: limit * cfg.gradient_accumulation_steps]

    def train(self) -> None:
        """Run all epochs.

        Raises:
            UserError: if too many rows are damaged, or too many steps in a row are not finite.
        """
        cfg, position = self.cfg, self.position
        self.started = self.last_save = time.monotonic()
        self.meter = SpeedMeter()
        self.progress = Progress(self.total_steps, position.step)
        while position.epoch < cfg.epochs:
            plans = self._plan(position.epoch)
            batches = iterate_batches(
                self.dataset, plans[position.batch :], self.transform, cfg.num_workers, self.device
            )
            pending: list[Batch] = []
            for batch, bad in batches:
                self._count_bad(bad)
                position.batch += 1
                if batch is not None:
                    pending.append(batch)
                if position.batch % cfg.gradient_accumulation_steps == 0 or position.batch == len(plans):
                    self._step(pending)
                    pending = []
                    self._after_step(last_of_epoch=position.batch == len(plans))
            position.epoch, position.batch = position.epoch + 1, 0
            self.save_checkpoint()
            if self.save_meta_model:
                self.checkpoints.save_meta_model(self.model, position.epoch)
        self.progress.close()

    def _step(self, batches: list[Batch]) -> None:
        self.position.step += 1
        if not batches:
            return
        self.model.train()
        loss = torch.zeros((), device=self.device)
        for batch in batches:
            batch_loss = self.model.loss(batch.to(self.device), self.cfg.loss_chunk_size)
            # Without an image in it nothing that trains took part.
            if batch_loss.requires_grad:
                batch_loss.backward()
            loss += batch_loss.detach()
        num_labels = sum(batch.num_labels for batch in batches)
        norm = scale_and_clip(list(self.trainable.values()), num_labels, self.cfg.clip_grad_norm)
        values = {"loss": (loss / num_labels).item(), "grad_norm": norm.item()}
        learning_rate = self.optimizer.param_groups[0]["lr"]
        if all(map(torch.isfinite, (loss, norm))):
            self.optimizer.step()
            if self.scheduler is not None:
                self.scheduler.step()
            self.bad_steps = 0
        else:
            self._skip_step(batches)
        self.optimizer.zero_grad(set_to_none=True)
        self.meter.update(batches)
        values |= self.meter.rates() | {"lr": learning_rate, "epoch": self.position.epoch}
        self.progress.update(values)
        if self.position.step % self.cfg.log_every_n_steps == 0:
            self._log(values)

    def _skip_step(self, batches: list[Batch]) -> None:
        self.bad_steps += 1
        names = ", ".join(name for batch in batches for name in batch.names)
        self.progress.note(f"step {self.position.step} skipped: loss or gradient is not finite; its records: {names}")
        if self.bad_steps >= self.cfg.max_bad_steps:
            raise UserError(
                f"{self.bad_steps} steps in a row had a loss or gradient that is not finite: lower optimizer.lr or set"
                " clip_grad_norm"
            )

    def _log(self, values: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_dict(values, step=self.position.step)

    def _after_step(self, last_of_epoch: bool) -> None:
        cfg, step = self.cfg, self.position.step
        every = cfg.eval_every_n_steps
        if self.validation is not None and (last_of_epoch or (every is not None and step % every == 0)):
            self._log({"validation_loss": self.evaluate()})
        by_steps = cfg.save_every_n_steps is not None and step % cfg.save_every_n_steps == 0
        minutes = (time.monotonic() - self.last_save) / 60
        by_minutes = cfg.save_every_minutes is not None and minutes >= cfg.save_every_minutes
        if (by_steps or by_minutes) and not last_of_epoch:
            self.save_checkpoint()
        self.meter.restart()

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean loss over all label tokens of the validation file."""
        self.model.eval()
        plans = self.validation.plan(self.cfg.batch_size, shuffle=False)
        total, num_labels = 0.0, 0
        for batch, bad in iterate_batches(self.validation, plans, self.transform, self.cfg.num_workers, self.device):
            self._count_bad(bad)
            if batch is not None:
                total += self.model.loss(batch.to(self.device), self.cfg.loss_chunk_size).item()
                num_labels += batch.num_labels
        loss = total / max(num_labels, 1)
        self.progress.note(f"step {self.position.step}: validation loss {loss:.4f}")
        return loss

    def save_checkpoint(self) -> None:
        """Write ``checkpoint/step_NNNNNN`` with everything that an exact resume needs."""
        folder = self.checkpoints.save(self.model, self.optimizer, self.scheduler, self.position)
        self.progress.note(f"saved {folder}")
        self.last_save = time.monotonic()

    def cleanup(self) -> None:
        """Prove that the language model is what it was, and write ``summary.json``.

        Raises:
            RuntimeError: if a frozen weight changed.
        """
        before = self.llm["fingerprint"]
        after = llm_fingerprint(self.model.decoder) if self.cfg.verify_frozen else None
        summary = {
            "steps": self.position.step,
            "seconds": round(time.monotonic() - self.started, 3),
            "samples": len(self.dataset.samples),
            "bad_rows": len(self.bad_rows),
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "trained_parameters": sum(parameter.numel() for parameter in self.trainable.values()),
            "llm_sha256_before": before,
            "llm_sha256_after": after,
        }
        write_text(self.output_dir / "summary.json", json.dumps(summary, indent=2) + "\n")
        for logger in self.loggers:
            logger.close()
        # [Contract] the language model is never changed.
        if before != after:
            raise RuntimeError(f"the frozen language model changed: sha256 {before} before, {after} after")


@recipe(KEYS)
def recipe_main(cfg: DictConfig) -> None:
    """Entry point: ``tune run medcap/recipes/full_finetune_single_device --config CONFIG [key=value ...]``."""
    finetune = FullFinetuneRecipeSingleDevice(cfg)
    finetune.setup()
    finetune.train()
    finetune.cleanup()


if __name__ == "__main__":
    sys.exit(recipe_main())
