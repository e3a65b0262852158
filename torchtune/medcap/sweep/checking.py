"""Mistakes that can be found before the first trial starts: recipes, configurations and every value that is tried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medcap.configuration import Configuration
from medcap.errors import UserError
from medcap.evaluation.tasks.registry import requested_tasks
from medcap.pipeline.overrides import override_text
from medcap.pipeline.program import read_configuration
from medcap.sweep.definition import Definition
from medcap.sweep.objective import VALIDATION_LOSS, watched
from medcap.sweep.trial import commands


def check_runs(definition: Definition) -> None:
    """Read the configuration of trials as their recipes will, with each value that is tried at least once.

    Args:
        definition: definition of the sweep.

    Raises:
        UserError: naming the value and what its recipe says against it.
    """
    folder = definition.folder / "trials" / "0000"
    first, *others = _overrides(definition)
    train = read_configuration(commands(definition, folder, first)[0], "config")
    for overrides in others:
        read_configuration(commands(definition, folder, overrides)[0], "config")
    if train is not None:
        _check_training(definition, folder, train)
    if definition.test is not None:
        test = read_configuration(commands(definition, folder, first)[1], "test.config")
        _check_task(definition, test)


def _overrides(definition: Definition) -> Iterator[dict[str, str]]:
    """Yield what the first trial tries, then each other value of each key with the first ones of the others."""
    values = {
        key: definition.choices.get(key) or [override_text(definition.ranges[key][end], key) for end in ("low", "high")]
        for key in definition.keys
    }
    first = {key: texts[0] for key, texts in values.items()}
    yield first
    for key, texts in values.items():
        for text in texts[1:]:
            yield first | {key: text}


def _check_training(definition: Definition, folder: Path, cfg: Configuration) -> None:
    given = cfg.model_dump()
    for path in ("checkpointer.output_dir", "metric_logger.log_dir"):
        section, _, name = path.partition(".")
        value = (given.get(section) or {}).get(name)
        wanted = {"output_dir": folder / "checkpoint", "log_dir": folder / "log"}[name]
        if value is not None and Path(value) != wanted:
            raise UserError(
                f"{path}={value} would be the same for all trials: write"
                f" {path}: ${{output_dir}}/{wanted.name} in the config or leave it out"
            )
    metric, _ = watched(definition.objective)
    if metric == VALIDATION_LOSS and (definition.objective.task is None or definition.pruner is not None):
        if given.get("validation_source") is None:
            raise UserError(f"{metric} needs held-out rows: add validation_source=FILE to overrides")
        if definition.pruner is not None and given.get("eval_every_n_steps") is None:
            raise UserError("pruner needs values while a trial trains: add eval_every_n_steps=N to overrides")


def _check_task(definition: Definition, cfg: Configuration | None) -> None:
    task = definition.objective.task
    if cfg is not None and task is not None and task not in requested_tasks(cfg.flags):
        raise UserError(f"objective.metric={definition.objective.metric}: add test_{task}: true to test.overrides")
