"""The folder that a run writes: its configuration, logs, checkpoints and summary."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from torchtune.training.metric_logging import MetricLoggerInterface

from medcap.checkpoints.vision_files import DESCRIPTION_FILE
from medcap.errors import UserError
from medcap.files import plain, write_text
from medcap.instantiate import build
from medcap.locks import lock_file
from medcap.training.distributed.context import DistributedContext
from medcap.training.keys import TrainingConfiguration
from medcap.training.metering import MetricsFile
from medcap.training.reliability.checkpointing import check_writable, find_resume_folder


class RunFolder:
    """Where a run's files go; only the main process writes.

    Args:
        cfg: configuration of the training.
        world: the processes.

    Attributes:
        path: ``output_dir``.
        checkpoints: holds the step folders.
        log: holds ``metrics.jsonl``.
        resume_from: the checkpoint to continue from, or None.

    Raises:
        UserError: if it cannot be written, another run is writing to it or has written to it and is not continued,
            or the checkpoint to continue from is not a complete one.
    """

    def __init__(self, cfg: TrainingConfiguration, world: DistributedContext) -> None:
        self._cfg, self._world = cfg, world
        self.path = Path(cfg.output_dir)
        self.checkpoints = Path(cfg.checkpointer.output_dir or self.path / "checkpoint")
        self._logger = cfg.metric_logger or {}
        self.log = Path(self._logger.get("log_dir") or self.path / "log")
        found = None
        if world.is_main:
            check_writable(self.path)
            check_writable(self.checkpoints, "checkpointer.output_dir" if cfg.checkpointer.output_dir else "output_dir")
            check_writable(self.log, "metric_logger.log_dir" if self._logger.get("log_dir") else "output_dir")
            self._lock = _lock(self.checkpoints / ".lock")
            found = find_resume_folder(cfg.resume_from_checkpoint, self.checkpoints)
            self._check_unused(found)
        # All processes continue from the one checkpoint that the main process finds, whatever is being written
        # meanwhile.
        (named, *_) = world.gather(None if found is None else str(found))
        self.resume_from = None if named is None else Path(named)

    def begin(self, step: int) -> list[MetricLoggerInterface]:
        """Write the configuration and open the logs.

        Args:
            step: that the run continues from; what the logs know of later ones is dropped.

        Returns:
            The loggers; none on other processes than the main one.
        """
        if not self._world.is_main:
            return []
        _write(self.path / "config.yaml", self._cfg.to_yaml())
        # It says that a run has ended; an earlier and shorter one may have left its own.
        (self.path / "summary.json").unlink(missing_ok=True)
        loggers: list[MetricLoggerInterface] = [MetricsFile(self.log, step)]
        if self._logger:
            loggers.append(build(self._logger, key="metric_logger"))
        return loggers

    def _check_unused(self, resume_from: Path | None) -> None:
        """See that a run replaces nothing: its checkpoints and log would be mixed with those of another one.

        Args:
            resume_from: the checkpoint to continue from.

        Raises:
            UserError: naming what is there.
        """
        imported = self.path / DESCRIPTION_FILE
        if resume_from is None and imported.is_file():
            raise UserError(
                f"{imported} is of an imported run: choose another output_dir, and train from its weights with"
                f" vision_checkpoint={self.path}"
            )
        own = resume_from is not None and resume_from.absolute().parent == self.checkpoints.absolute()
        if own or self._cfg.resume_from_checkpoint in (True, "latest"):
            return
        found = next((path for path in self._left_by_a_run() if path.exists()), None)
        if found is not None:
            another = "" if resume_from is None else ", which is not the one that resume_from_checkpoint names"
            raise UserError(
                f"{found} is of an earlier run{another}: go on with that run with resume_from_checkpoint=latest, choose"
                f" another {self._key_of(found)}, or remove that run first"
            )

    def _left_by_a_run(self) -> Iterator[Path]:
        """Yield what a run may have left: checkpoints, logged steps, its summary."""
        yield from sorted(self.checkpoints.glob("step_*"), reverse=True)
        yield from sorted(self.checkpoints.glob("meta_model_*.pt"))
        log = self.log / "metrics.jsonl"
        if log.is_file() and log.stat().st_size:
            yield log
        yield self.path / "summary.json"

    def _key_of(self, found: Path) -> str:
        """Return the key that says where a file goes."""
        if found.is_relative_to(self.path):
            return "output_dir"
        return "checkpointer.output_dir" if found.parent == self.checkpoints else "metric_logger.log_dir"

    def end(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        if self._world.is_main:
            _write(self.path / "summary.json", json.dumps(plain(summary), indent=2, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{path} cannot be written ({reason}): make room or fix its folder, then start again"
        ) from error


def _lock(path: Path) -> TextIO:
    """Keep a second run out of the folder: both would write the same checkpoints.

    The lock belongs to the process and not to its children: it is released when the process ends, in whatever way.
    """
    file = path.open("w")
    if lock_file(file, with_children=False) is False:
        raise UserError(f"another run is writing to {path.parent}: wait for its end, or choose another output_dir")
    return file
