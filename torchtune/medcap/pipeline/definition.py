"""Read a pipeline's YAML file and check it as a whole, before its first stage runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medcap.configs import packaged_pipelines
from medcap.configuration import Configuration, check
from medcap.errors import UserError
from medcap.evaluation.tasks.registry import requested_tasks
from medcap.merge_overrides import override
from medcap.pipeline.keys import PipelineConfiguration, StageKeys
from medcap.pipeline.overrides import flat, override_text
from medcap.pipeline.program import RECIPE_FOLDER, Program, load_yaml, read_configuration, written_configuration
from medcap.training.keys import DistributedConfiguration

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Stage:
    """A checked stage.

    Attributes:
        name: name of the stage in the file.
        folder: the stage's ``output_dir``.
        words: the command line, ``tune`` or ``medcap`` first.
        key: the settings that identify the stage: recipe, processes, overrides, and the content of its configuration
            file; or the words of its command.
        writes: folders that the stage writes: that of a run, or one for each task; empty for a command.
        makes: file that the stage writes last; None where that is not known.
        resumes: whether the recipe has the key ``resume_from_checkpoint``.
        overwrites: whether the recipe has the key ``overwrite``.
    """

    name: str
    folder: Path
    words: list[str]
    key: list[Any]
    writes: list[Path]
    makes: Path | None
    resumes: bool
    overwrites: bool


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline: its folder, and its stages in the order in which they run."""

    folder: Path
    stages: list[Stage]


def read_pipeline(name: str | Path, words: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline, and the configuration of each stage as its recipe will.

    Args:
        name: a YAML file, or a packaged pipeline's name.
        words: ``key=value`` overrides of the file's values.

    Returns:
        The pipeline.

    Raises:
        UserError: if a value is wrong; the message names the file, the stage and the key.
    """
    path = Path(name)
    if not path.is_file():
        packaged = packaged_pipelines()
        if str(name) not in packaged:
            raise UserError(f"{name}: neither a file nor a packaged pipeline; choose from {', '.join(packaged)}")
        path = packaged[str(name)]
    values: Any = OmegaConf.to_container(load_yaml(path, "pipeline"), resolve=False)
    try:
        return _pipeline(override(values, words))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _pipeline(cfg: DictConfig) -> Pipeline:
    given = OmegaConf.select(cfg, "stages")
    if not OmegaConf.is_dict(given) or not given:
        raise UserError("stages is missing: write a mapping from names to stages, each with config and overrides")
    for name in given:
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise UserError(
                f"stages.{name}: use only letters, digits, _ and - in a stage's name, and begin with a letter or digit"
            )
        if OmegaConf.is_dict(given[name]) and given[name].get("output_dir") is None:
            OmegaConf.update(cfg, f"stages.{name}.output_dir", f"${{output_dir}}/{name}", force_add=True)
    checked = check(cfg, PipelineConfiguration)
    stages = [_stage(name, StageKeys(**keys)) for name, keys in checked.stages.items()]
    for position, stage in enumerate(stages):
        _check_order(stage, stages[:position], stages[position + 1 :])
    return Pipeline(Path(checked.output_dir), stages)


def _stage(name: str, keys: StageKeys) -> Stage:
    folder = Path(str(keys.output_dir))
    if keys.command is not None:
        if keys.config is not None or keys.overrides:
            raise UserError(
                f"stages.{name}: command cannot be combined with config or overrides: remove one or the other"
            )
        return Stage(name, folder, ["medcap", *keys.command], keys.command, [], None, False, False)
    if keys.config is None:
        raise UserError(f"stages.{name}.config is missing: add the configuration of its recipe")
    if "output_dir" in keys.overrides:
        raise UserError(f"stages.{name}.overrides.output_dir: write it as stages.{name}.output_dir")
    texts = {key: override_text(value, f"stages.{name}.{key}") for key, value in flat(keys.overrides).items()}
    program = Program(keys.recipe, keys.config, {"output_dir": str(folder), **texts})
    words = program.words(processes=keys.processes)
    try:
        cfg = read_configuration(words, "config")
    except UserError as error:
        raise UserError(f"stages.{name}: {error}") from error
    if cfg is not None and keys.processes > 1 and not isinstance(cfg, DistributedConfiguration):
        raise UserError(
            f"stages.{name}.processes={keys.processes}: {keys.recipe} runs in one process; give a recipe for several,"
            f" such as {RECIPE_FOLDER}/full_finetune_distributed"
        )
    has = type(cfg).model_fields if cfg is not None else ()
    tasks = requested_tasks(cfg.flags) if isinstance(cfg, Configuration) else []
    writes = [folder / task for task in tasks] or [folder]
    makes = writes[-1] / "metrics.json" if tasks else folder / "summary.json" if "epochs" in has else None
    # Overrides name different keys, so their order does not matter.
    key = [keys.recipe, keys.processes, sorted(program.overrides.items()), written_configuration(keys.config)]
    return Stage(name, folder, words, key, writes, makes, "resume_from_checkpoint" in has, "overwrite" in has)


def _check_order(stage: Stage, before: Sequence[Stage], after: Sequence[Stage]) -> None:
    """Refuse stages that write to the same folder, and a stage that reads what a later stage writes."""
    for other in before:
        shared = [path for path in stage.writes if path in other.writes]
        if shared:
            raise UserError(f"stages {other.name} and {stage.name} both write to {shared[0]}: give each an output_dir")
    values = dict(word.split("=", 1) for word in stage.words if "=" in word)
    later = [other for other in after if other.writes and other.folder != stage.folder]
    for other in later:
        for key, value in values.items():
            if key != "output_dir" and _lies_in(value, other.folder):
                raise UserError(
                    f"stages.{stage.name}: {key}={value} is written by the later stage {other.name}:"
                    " move that stage before this one"
                )


def _lies_in(value: str, folder: Path) -> bool:
    return Path(value).is_relative_to(folder)
