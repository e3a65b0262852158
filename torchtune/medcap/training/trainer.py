"""The training loop, the same on one process and on many."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import asdict
from signal import Signals
from typing import Any

import torch
from torch import Tensor

from medcap.checkpoints.history import History
from medcap.data.batch import TEXT, Batch
from medcap.datasets.training_dataset import BadRow
from medcap.errors import UserError
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.plurals import counted
from medcap.training.data import LoadedBatches, LoadedStep, LoaderWatch, TrainingData
from medcap.training.distributed.context import DistributedContext
from medcap.training.distributed.sharded_optimizer import ShardedOptimizer
from medcap.training.error_sampling import SourceShares
from medcap.training.keys import TrainingConfiguration
from medcap.training.logged_sums import LoggedSums
from medcap.training.loss_normalisation import LossWeights
from medcap.training.mean_loss import loss_sums, mean_loss
from medcap.training.metering import Progress, SpeedMeter, peak_memory_bytes
from medcap.training.optimization import build_scheduler, learning_rate_notes
from medcap.training.reliability.bad_rows import BadRows
from medcap.training.reliability.bad_steps import BadSteps
from medcap.training.reliability.checkpointing import Position, RunCheckpoints, random_state, set_random_state
from medcap.training.reliability.run_folder import RunFolder
from medcap.training.reliability.stopping import StopRequests
from medcap.training.setup import seed_everything


class Trainer:
    """Runs the epochs: steps, evaluation, checkpoints, and what goes wrong on the way.

    All processes make the same steps: whether to save, to stop or to skip is agreed in each of them.

    Args:
        cfg: configuration of the training.
        world: the processes.
        model: model on every process; the trainable parameters are the same on all of them.
        trained: what trains, and its optimizer.
        data: the batches.
        folder: where the run's files go, and which checkpoint it continues from.
        llm: identity of the language model, for the checkpoints.
        save_meta_model: also medcap 2024's file at the end of each epoch.
        history: where the weights come from, for the checkpoints.

    Attributes:
        position: where the run is.
        exit_status: 128 and the signal's number after a signal asked to stop, otherwise 0.

    Raises:
        UserError: if the checkpoint to continue from does not fit: it is of another model or optimizer, or in the
            middle of an epoch over other data.
    """

    def __init__(
        self,
        cfg: TrainingConfiguration,
        world: DistributedContext,
        model: VisionLanguageModel,
        trained: ShardedOptimizer,
        data: TrainingData,
        folder: RunFolder,
        llm: dict[str, Any],
        save_meta_model: bool = False,
        history: History | None = None,
    ) -> None:
        self.cfg, self.world, self.model, self.trained = cfg, world, model, trained
        self.data, self.folder = data, folder
        self.save_meta_model = save_meta_model
        self.losses = LossWeights(model.loss_terms, cfg.losses, model.loss_weights, model.loss_counts)
        self.checkpoints = RunCheckpoints(folder.checkpoints, llm, cfg.keep_last, world.is_main, history)
        state = None if folder.resume_from is None else self.checkpoints.restore(folder.resume_from, model)
        self.trained.synchronise()
        for dataset in (data.dataset, data.validation):
            if dataset is not None:
                model.cache_prompt_prefix(dataset.prompt_prefix)
        self.position = Position() if state is None else Position(**state["position"])
        self.shares = SourceShares(cfg.sample_by_error, data) if cfg.sample_by_error.every_n_steps else None
        if self.shares is not None and state is not None:
            self.shares.restore(state.get("shares"))
        self.total_steps = self.position.step + data.steps_left(self.position)
        self.bad_rows = BadRows(data.dataset.num_rows, cfg.max_bad_fraction, folder.log if world.is_main else None)
        self.bad_steps = BadSteps(cfg.max_bad_steps)
        self.exit_status = 0
        self._owes_evaluation = False
        self.progress = Progress(self.total_steps, self.position.step, silent=not world.is_main)
        steps_made = 0 if state is None else self._restore(state)
        self.scheduler = build_scheduler(cfg.lr_scheduler, trained.optimizer, self.total_steps, steps_made)
        for note in learning_rate_notes(cfg, self.total_steps):
            self.progress.note(note)
        # Without an image no trainable parameter takes part. A resumed run may have no image left but have had some.
        self._has_learnt = state is not None

    def _restore(self, state: dict[str, Any]) -> int:
        """Put everything but the weights back; how many steps of its schedule the run has made."""
        if self.position.unit and state["plan"] != self._plan_identity():
            raise UserError(
                "resume_from_checkpoint: the data, its settings, seed or shuffle differ from those of the checkpoint,"
                f" which is in the middle of epoch {self.position.epoch + 1}: which rows are left of it cannot be told;"
                " restore them, or start a new run with vision_checkpoint=FOLDER"
            )
        kind = state.get("optimizer_class", self._optimizer_class())
        if kind != self._optimizer_class():
            raise UserError(
                f"resume_from_checkpoint: its optimizer is {kind}, not {self._optimizer_class()}: resume with the same"
                " optimizer, or start a new run with vision_checkpoint=FOLDER"
            )
        changes = self.trained.load_state_dict(state["optimizer"])
        self.bad_rows.load(state["bad_rows"])
        self.bad_steps.load(state["bad_steps"])
        self._owes_evaluation = state["owes_evaluation"]
        if len(state["random"]) == self.world.size and state["plan"][1] == self.cfg.seed:
            set_random_state(state["random"][self.world.rank])
        else:
            seed_everything(self.cfg.seed + self.position.step + self.world.rank)
        self.progress.note(f"resuming from {self.folder.resume_from}, step {self.position.step}")
        if changes:
            self.progress.note(f"the optimizer's settings from now on: {', '.join(changes)}")
        # Skipped steps do not count as steps of the schedule.
        return (state["scheduler"] or {}).get("last_epoch", self.position.step)

    def _optimizer_class(self) -> str:
        kind = type(self.trained.optimizer)
        return f"{kind.__module__}.{kind.__qualname__}"

    def _plan_identity(self) -> list[Any]:
        return [self.data.dataset.plan_fingerprint, self.cfg.seed, self.cfg.shuffle]

    def train(self) -> int:
        """Run to the end, or until a signal asks to stop.

        Returns:
            ``exit_status``.

        Raises:
            UserError: if too many rows are damaged, too many steps in a row are not finite, or the last checkpoint
                could not be written.
        """
        self.started = self.last_save = time.monotonic()
        self.meter, self.watch = SpeedMeter(), LoaderWatch(self.cfg.num_workers)
        self.loggers = self.folder.begin(self.position.step)
        self._count_bad(self.data.dataset.bad)
        with StopRequests(announce=self.world.is_main) as self.stop:
            try:
                if self._owes_evaluation:
                    self._evaluate_and_log()
                while self.position.epoch < self.cfg.epochs and not self.exit_status:
                    self._train_epoch()
            except BaseException:
                # A checkpoint that is being written is worth its second; the error is what the user should see.
                with contextlib.suppress(UserError):
                    self.checkpoints.finish()
                raise
            finally:
                self.progress.close()
            self.checkpoints.finish()
            self._show_messages()
            if self.position.step and not self._has_learnt and not self.exit_status:
                raise UserError(
                    "nothing was learnt: no step had a gradient, because no row with an image could be used (see"
                    " log/bad_rows.jsonl)"
                )
            self.bad_rows.close()
            for logger in self.loggers:
                logger.close()
        return self.exit_status

    def _train_epoch(self) -> None:
        epoch = self.position.epoch
        if self.shares is not None and epoch and not self.position.unit:
            self._renew_shares(self.shares)
        end = self.data.num_items(epoch)
        for loaded in self.data.steps_on_device(epoch, self.position.unit):
            wants_save = self._make_step(loaded)
            last = loaded.next_item >= end
            self._evaluate_if_due(last)
            if self.exit_status:
                self._save()
                return
            if wants_save and not last:
                self._save()
            self.meter.restart()
        self.position.epoch, self.position.unit = epoch + 1, 0
        self._save(end_of_epoch=True)

    def _make_step(self, loaded: LoadedStep) -> bool:
        """One optimizer step.

        Returns:
            Whether a checkpoint is due.
        """
        position, cfg = self.position, self.cfg
        position.step += 1
        position.unit = loaded.next_item
        batches = [batch for batch in loaded.batches if batch is not None]
        minutes = float("inf") if cfg.save_every_minutes is None else cfg.save_every_minutes
        due = (time.monotonic() - self.last_save) / 60 >= minutes
        terms = self.losses.terms
        own = [
            *(sum(counts) for counts in zip([0] * len(terms), *map(self.losses.counts, batches), strict=True)),
            sum(batch.num_tokens for batch in batches),
            sum(batch.num_images for batch in batches),
            sum(len(batch.names) for batch in batches),
            len(loaded.bad),
            self.stop.received or 0,
            due and self.world.is_main,
        ]
        summed = self.world.sum(own)
        counts, (tokens, images, samples, bad, signal, due) = summed[: len(terms)], summed[len(terms) :]
        if bad:
            gathered = self.world.gather([asdict(row) for row in loaded.bad])
            self._count_bad([BadRow(**row) for part in gathered for row in part])
        if any(counts):
            self.losses.begin(counts)
            signal += self._update_weights(loaded.batches)
            labels = counts[terms.index(TEXT)]
            self.meter.update(int(tokens), int(labels), int(images), loaded.waited)
            self._report(loaded.waited, int(images), int(samples))
        if signal:
            self._agree_to_stop()
        return bool(due) or (cfg.save_every_n_steps is not None and position.step % cfg.save_every_n_steps == 0)

    def _update_weights(self, batches: list[Batch | None]) -> float:
        """Compute the losses, then change the weights or skip the step.

        Returns:
            Not 0 if a signal came meanwhile: the same on every process.
        """
        self.model.train()
        sums = torch.stack([self._loss_sums(batch) for batch in batches])  # [batches, terms]
        norm = self.trained.reduce(self.losses.scale, self.cfg.clip_grad_norm)
        logged = LoggedSums(self.model.components.values())
        # The only time in a step that the host waits for the device.
        *flat, norm = torch.cat([sums.flatten(), *logged.tensors, norm[None]]).tolist()
        size = sums.shape[1]
        own = [flat[start : start + size] for start in range(0, sums.numel(), size)]
        totals = [*map(sum, zip(*own, strict=True)), *flat[sums.numel() :]]
        *totals, signal = self.world.sum([*totals, self.stop.received or 0])
        self.values = self.losses.values(totals[:size]) | {
            **logged.values(totals[size:]),
            "grad_norm": norm,
            "lr": self.trained.optimizer.param_groups[0]["lr"],
            "epoch": self.position.epoch,
        }
        # The sums are the same bits on every process, so all of them decide the same.
        if self.bad_steps.is_good(self.values["loss"], norm):
            self._has_learnt = self._has_learnt or norm > 0
            self.trained.step()
            if self.scheduler is not None:
                self.scheduler.step()
            self.trained.zero_grad()
        else:
            self.trained.zero_grad()
            self._skip_step(batches, own)
        return signal

    def _skip_step(self, batches: list[Batch | None], sums: list[list[float]]) -> None:
        suspects = [
            batch for batch, own in zip(batches, sums, strict=True) if batch and not all(map(math.isfinite, own))
        ]
        gathered = self.world.gather(
            [
                [name for batch in suspects for name in batch.names],
                [name for batch in batches if batch for name in batch.names],
            ]
        )
        # Where the loss is finite everywhere and only a gradient is not, it may be any of them.
        names = [name for own, _ in gathered for name in own] or [name for _, every in gathered for name in every]
        line = self.bad_steps.add(self.position.step, names)
        self.progress.note(line)

    def _count_bad(self, rows: list[BadRow]) -> None:
        """Count rows that turned out to be unusable, the same on every process."""
        for row in self.bad_rows.add(rows):
            self.progress.note(f"skipped {row.name}: {row.reason}")
        self.bad_rows.check()

    def _report(self, waited: float, images: int, samples: int) -> None:
        values = self.values | self.meter.rates()
        self.progress.update(values)
        if self.position.step % self.cfg.log_every_n_steps == 0:
            self._log(values)
        note = self.watch.update(waited, self.meter.last_seconds, images, samples)
        if note:
            self.progress.note(note)

    def _log(self, values: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_dict(values, step=self.position.step)

    def _agree_to_stop(self) -> None:
        received = [number for number in self.world.gather(self.stop.received) if number is not None]
        self.exit_status = 128 + received[0]
        # Otherwise its handler has reported it. Its own signal may follow when torchrun ends or passes its signal on.
        if self.stop.received is None:
            self.stop.announce = False
            name = Signals(received[0]).name
            self.progress.note(f"{name} to another process of this run: saving a checkpoint at the end of this step")

    def _evaluate_if_due(self, last_of_epoch: bool) -> None:
        every, step = self.cfg.eval_every_n_steps, self.position.step
        due = last_of_epoch or (every is not None and step % every == 0)
        if self.data.validation is not None and due:
            self._evaluate_and_log()

    def _evaluate_and_log(self) -> None:
        loss = None if self.exit_status else self.evaluate()
        # A run that was asked to stop does not begin long work; the run that continues from it does.
        self._owes_evaluation = loss is None
        if loss is not None:
            self._log({"validation_loss": loss})

    def _renew_shares(self, shares: SourceShares) -> None:
        renewed = shares.renew(self.position.epoch, self._mean_loss)
        if renewed is not None:
            line, values = renewed
            self.progress.note(f"step {self.position.step}: {line}")
            self._log(values)

    def evaluate(self) -> float | None:
        """Compute the loss over the whole validation file; None if a signal asked to stop meanwhile."""
        found = self._mean_loss(self.data.validation_batches())
        if found is None:
            return None
        loss, num_bad = found
        left_out = f", without {counted(num_bad, 'row')} that cannot be used" if num_bad else ""
        self.progress.note(f"step {self.position.step}: validation loss {loss:.4f}{left_out}")
        return loss

    def _mean_loss(self, batches: LoadedBatches) -> tuple[float, int] | None:
        def asked_to_stop() -> bool:
            return self.stop.received is not None

        chunk_size = self.cfg.loss_chunk_size
        found = mean_loss(self.model, self.losses, batches, self.world, chunk_size, asked_to_stop)
        if found is None:
            self._agree_to_stop()
        return found

    def _loss_sums(self, batch: Batch | None) -> Tensor:
        return loss_sums(self.model, self.losses, batch, self.world.device, self.cfg.loss_chunk_size)

    def _save(self, end_of_epoch: bool = False) -> None:
        """Take a copy of everything that an exact resume needs and write it in the background."""
        optimizer = self.trained.state_dict()
        random_states = self.world.gather(random_state())
        if self.world.is_main:
            state = {
                "position": asdict(self.position),
                "plan": self._plan_identity(),
                "optimizer": optimizer,
                "optimizer_class": self._optimizer_class(),
                "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                "random": random_states,
                "bad_rows": self.bad_rows.state(),
                "bad_steps": self.bad_steps.state(),
                "owes_evaluation": self._owes_evaluation,
            }
            if self.shares is not None:
                state["shares"] = self.shares.state()
            epoch = self.position.epoch if end_of_epoch and self.save_meta_model else None
            self.checkpoints.save(self.position.step, self.model.components.values(), state, epoch)
        self._show_messages()
        self.last_save = time.monotonic()

    def _show_messages(self) -> None:
        for line in self.checkpoints.messages():
            self.progress.note(line)

    def summary(self) -> dict[str, Any]:
        """Return what the run came to, for ``summary.json``."""
        return {
            "steps": self.position.step,
            "seconds": round(time.monotonic() - self.started, 3),
            "samples": self.data.dataset.num_rows - len(self.data.dataset.bad),
            "bad_rows": len(self.bad_rows),
            "peak_memory_bytes": peak_memory_bytes(self.world.device),
            "trained_parameters": sum(parameter.numel() for parameter in self.trained.parameters.values()),
            "processes": self.world.size,
            "history": self.checkpoints.history.entries(self.position.step),
        }
