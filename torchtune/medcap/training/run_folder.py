"""The folder that a run writes: its configuration, logs, checkpoints and summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torchtune.training.metric_logging import MetricLoggerInterface

from medcap.checkpoints.atomic import write_text
from medcap.configuration import build
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
        UserError: if it cannot be written, or the checkpoint to go on from is not a complete one.
    """

    def __init__(self, cfg: DictConfig, world: World) -> None:
        self._cfg, self._world = cfg, world
        self.path = Path(cfg.output_dir)
        self.checkpoints = Path(cfg.checkpointer.output_dir or self.path / "checkpoint")
        self._logger = {} if cfg.metric_logger is None else OmegaConf.to_container(cfg.metric_logger)
        self.log = Path(self._logger.get("log_dir") or self.path / "log")
        if world.is_main:
            for folder in (self.path, self.checkpoints, self.log):
                check_writable(folder)
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
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(self._cfg))
        loggers: list[MetricLoggerInterface] = [MetricsFile(self.log, step if self.resume_from else None)]
        if self._logger:
            loggers.append(build(self._logger))
        return loggers

    def end(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        if self._world.is_main:
            write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")
