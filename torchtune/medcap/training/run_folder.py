"""The folder that a run writes: its configuration, logs, checkpoints and summary."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig, OmegaConf
from torchtune.training.metric_logging import MetricLoggerInterface

from medcap.checkpoints.atomic import write_text
from medcap.configuration import build
from medcap.errors import UserError
from medcap.training.checkpointing import check_writable, find_resume_folder
from medcap.training.metering import MetricsFile
from medcap.training.world import World


class RunFolder:
    """Where a run's files go; only the main process writes.

    Args:
        cfg: has the training keys.
        world: the processes.

    Attributes:
        path: ``output_dir``.
        checkpoints: holds the step folders.
        log: holds ``metrics.jsonl``.
        resume_from: the checkpoint to go on from, or None.

    Raises:
        UserError: if it cannot be written, another run is writing to it, or the checkpoint to go on from is not a
            complete one.
    """

    def __init__(self, cfg: DictConfig, world: World) -> None:
        self._cfg, self._world = cfg, world
        self.path = Path(cfg.output_dir)
        self.checkpoints = Path(cfg.checkpointer.output_dir or self.path / "checkpoint")
        self._logger = {} if cfg.metric_logger is None else OmegaConf.to_container(cfg.metric_logger)
        self.log = Path(self._logger.get("log_dir") or self.path / "log")
        if world.is_main:
            check_writable(self.path)
            check_writable(self.checkpoints, "checkpointer.output_dir" if cfg.checkpointer.output_dir else "output_dir")
            check_writable(self.log, "metric_logger.log_dir" if self._logger.get("log_dir") else "output_dir")
            self._lock = _lock(self.checkpoints / ".lock")
        # All processes go on from the one checkpoint that the main process finds, whatever is being written meanwhile.
        found = find_resume_folder(cfg.resume_from_checkpoint, self.checkpoints) if world.is_main else None
        (named, *_) = world.gather(None if found is None else str(found))
        self.resume_from = None if named is None else Path(named)

    def begin(self, step: int) -> list[MetricLoggerInterface]:
        """Write the configuration and open the logs.

        Args:
            step: that the run goes on from; what the logs know of later ones is dropped.

        Returns:
            The loggers; none on other processes than the main one.
        """
        if not self._world.is_main:
            return []
        _write(self.path / "config.yaml", OmegaConf.to_yaml(self._cfg))
        # It says that a run has ended; an earlier and shorter one may have left its own.
        (self.path / "summary.json").unlink(missing_ok=True)
        loggers: list[MetricLoggerInterface] = [MetricsFile(self.log, step if self.resume_from else None)]
        if self._logger:
            loggers.append(build(self._logger))
        return loggers

    def end(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        if self._world.is_main:
            _write(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{path} cannot be written ({reason}): make room or mend its folder, then start again"
        ) from error


def _lock(path: Path) -> TextIO:
    """Keep a second run out of the folder: both would write the same checkpoints.

    The lock belongs to the process and not to its children: it is gone when the process is, however it ends.
    """
    file = path.open("w")
    # Where there are no such locks, as on Windows and some network file systems, a run goes on without one.
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"another run is writing to {path.parent}: wait for its end, or choose another output_dir"
            ) from None
    return file
