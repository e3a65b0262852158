"""What a sweep's YAML says: read, checked, and what makes two of them the same sweep."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from medcap.configs import packaged_sweeps
from medcap.configuration import check
from medcap.errors import UserError
from medcap.pipeline.overrides import flat, override_text
from medcap.pipeline.program import Program, load_yaml
from medcap.sweep.keys import SweepConfiguration

SPACE_KEYS = {"low", "high", "step", "log"}
# Each trial has its own of these.
OWN_KEYS = ("output_dir", "resume_from_checkpoint")
MOST_COMBINATIONS = 100_000


@dataclass(frozen=True)
class Objective:
    """The number that a trial is judged by.

    Attributes:
        metric: a key of ``log/metrics.jsonl``, or ``<task>.<path>`` into ``<task>/metrics.json``.
        take: which of the values in the log.
        direction: minimize or maximize.
    """

    metric: str
    take: str
    direction: Literal["minimize", "maximize"]

    @property
    def task(self) -> str | None:
        """The task whose ``metrics.json`` holds it; None for the training's log."""
        return self.metric.partition(".")[0] if "." in self.metric else None


@dataclass(frozen=True)
class Definition:
    """A checked sweep.

    Attributes:
        output_dir: holds everything.
        name: name of the study in the storage.
        storage: a database's URL; None for a journal in ``output_dir``.
        train: what each trial runs.
        test: what each trial runs afterwards, or None.
        processes_per_trial: processes, and so GPUs, of the training.
        choices: key -> the texts it may have, for a grid or a listed choice of a search.
        ranges: key -> ``low``, ``high``, ``step``, ``log`` of a search.
        grid: whether each combination of ``choices`` is a trial.
        trials: how many.
        seed: seed of the sampler.
        sampler: ``_component_`` and arguments, None for the default.
        pruner: pruner of the study; None for no pruning.
        objective: what a trial is judged by.
        workers: trials side by side, None for one on each GPU.
        retries: how often a killed trial is started again.
    """

    output_dir: str
    name: str
    storage: str | None
    train: Program
    test: Program | None
    processes_per_trial: int
    choices: dict[str, list[str]]
    ranges: dict[str, dict[str, Any]]
    grid: bool
    trials: int
    seed: int
    sampler: dict[str, Any] | None
    pruner: dict[str, Any] | None
    objective: Objective
    workers: int | None = None
    retries: int = 1
    keys: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """``output_dir`` as a path."""
        return Path(self.output_dir)

    def combinations(self) -> list[dict[str, str]]:
        """Return the trials of a grid, in the order of the file: the last key changes fastest."""
        return [dict(zip(self.choices, texts, strict=True)) for texts in itertools.product(*self.choices.values())]

    def fingerprints(self) -> dict[str, str]:
        """Part -> a hash of it, for the parts that the trials of one sweep must have in common."""
        parts = {
            "recipe, config and overrides": [asdict(self.train), self.processes_per_trial],
            "test": self.test and asdict(self.test),
            "grid" if self.grid else "search": [self.choices, self.ranges],
            "objective": asdict(self.objective),
        }
        return {
            name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for name, part in parts.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``from_dict`` reads it."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Definition:
        """Return the value from which ``as_dict`` made this."""
        programs = {name: values[name] and Program(**values[name]) for name in ("train", "test")}
        return Definition(**{**values, **programs, "objective": Objective(**values["objective"])})


def read_definition(sweep: str | Path | Mapping[str, Any]) -> Definition:
    """Read and check a sweep.

    Args:
        sweep: a YAML file, a packaged sweep's name, or the content of one.

    Returns:
        The sweep, its overrides flat and as the command line takes them.

    Raises:
        UserError: naming the file and the key that is wrong.
    """
    if isinstance(sweep, Mapping):
        return _definition(OmegaConf.create(dict(sweep)))
    path = Path(sweep)
    if not path.is_file():
        packaged = packaged_sweeps()
        if str(sweep) not in packaged:
            raise UserError(f"{sweep}: neither a file nor a packaged sweep; there is {', '.join(packaged)}")
        path = packaged[str(sweep)]
    content = load_yaml(path, "sweep")
    try:
        return _definition(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _definition(content: Any) -> Definition:
    given = check(content, SweepConfiguration).model_dump()
    train = Program(given["recipe"], given["config"], _overrides(given["overrides"], "overrides"))
    test = given["test"]
    choices, ranges, trials = _space(given)
    objective = Objective(**given["objective"])
    testing = None
    if test["config"] is not None:
        testing = Program(test["recipe"], test["config"], _overrides(test["overrides"], "test.overrides"))
    elif test["overrides"]:
        raise UserError("test.config is missing: test.overrides need a configuration")
    if objective.task is not None and testing is None:
        raise UserError(f"objective.metric={objective.metric} is a task's score: add test.config and test.overrides")
    for key in (*choices, *ranges):
        if key in train.overrides:
            raise UserError(f"{key} stands in overrides and in what is tried: remove one")
    return Definition(
        output_dir=given["output_dir"],
        name=given["name"] or Path(given["output_dir"]).name,
        storage=given["storage"],
        train=train,
        test=testing,
        processes_per_trial=given["processes_per_trial"],
        choices=choices,
        ranges=ranges,
        grid=given["grid"] is not None,
        trials=trials,
        seed=given["seed"],
        sampler=given["sampler"],
        pruner=given["pruner"],
        objective=objective,
        workers=given["workers"],
        retries=given["retries"],
        keys=list(given["grid"] or given["search"]),
    )


def _overrides(given: Mapping[str, Any], path: str) -> dict[str, str]:
    values = flat(given)
    for key in values:
        _check_key(key, path)
    return {key: override_text(value, f"{path}.{key}") for key, value in values.items()}


def _check_key(key: str, path: str) -> None:
    if key in OWN_KEYS or (key == "vision_checkpoint" and path.startswith("test")):
        raise UserError(f"{path}.{key}: each trial has its own, remove it")


def _space(given: Mapping[str, Any]) -> tuple[dict[str, list[str]], dict[str, dict[str, Any]], int]:
    """Choices, ranges and the number of trials."""
    grid, search = given["grid"], given["search"]
    if bool(grid) == bool(search):
        raise UserError("write either grid (every combination of listed values) or search (values drawn from a space)")
    if grid:
        for name in ("trials", "sampler"):
            if given[name] is not None:
                raise UserError(f"{name} belongs to search: a grid runs every combination once")
        choices = {key: _choices(values, f"grid.{key}") for key, values in grid.items()}
        trials = math.prod(map(len, choices.values()))
        if trials > MOST_COMBINATIONS:
            raise UserError(f"grid has {trials:,} combinations, more than {MOST_COMBINATIONS:,}: use search")
        return choices, {}, trials
    if given["trials"] is None:
        raise UserError("trials is missing: add how many trials the search may take")
    choices = {key: _choices(values, f"search.{key}") for key, values in search.items() if isinstance(values, list)}
    ranges = {key: _range(values, f"search.{key}") for key, values in search.items() if not isinstance(values, list)}
    return choices, ranges, given["trials"]


def _choices(values: Any, path: str) -> list[str]:
    _check_key(path.partition(".")[2], path.partition(".")[0])
    if not isinstance(values, list) or not values:
        raise UserError(f"{path} must be a list of values to try, such as [1, 2], not {values!r}")
    texts = [override_text(value, path) for value in values]
    twice = [text for position, text in enumerate(texts) if text in texts[:position]]
    if twice:
        raise UserError(f"{path} lists {twice[0]} twice: remove one")
    return texts


def _range(values: Any, path: str) -> dict[str, Any]:
    _check_key(path.partition(".")[2], path.partition(".")[0])
    if not isinstance(values, dict) or not {"low", "high"} <= set(values) or not set(values) <= SPACE_KEYS:
        raise UserError(
            f"{path} must be a list of values, or low and high with log: true or step, such as"
            f" {{low: 1.0e-5, high: 1.0e-3, log: true}}, not {values!r}"
        )
    for name in ("low", "high", "step"):
        number = values.get(name)
        if name in values and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise UserError(f"{path}.{name}={number!r} must be a number (YAML wants a point: 1.0e-5)")
    log, step = values.get("log", False), values.get("step")
    if not isinstance(log, bool):
        raise UserError(f"{path}.log={log!r} must be true or false")
    if not values["low"] < values["high"]:
        raise UserError(f"{path}: low={values['low']} must be below high={values['high']}")
    if log and (step is not None or values["low"] <= 0):
        raise UserError(f"{path}: log goes with low above 0 and without step")
    if step is not None and step <= 0:
        raise UserError(f"{path}.step={step} must be above 0")
    whole = all(isinstance(number, int) for number in (values["low"], values["high"], 1 if step is None else step))
    return {"low": values["low"], "high": values["high"], "step": step, "log": log, "whole": whole}
