"""Read a trained run from its folder: its own configuration says which model it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.keys import ModelConfiguration, OptionalCheckpointerSection, RunModelConfiguration
from medcap.checkpoints.vision_files import DESCRIPTION_FILE, find_vision_checkpoint
from medcap.configuration import check
from medcap.errors import UserError
from medcap.merge_overrides import override

CONFIG_FILE = "config.yaml"

AnyKeys = TypeVar("AnyKeys", bound=RunModelConfiguration)


def read_run(run: str | Path, overrides: Sequence[str] = ()) -> ModelConfiguration:
    """Read which model a run trained.

    The language model's files are looked for in the run's folder first, as an imported run holds them, and then from
    the working directory, as a training run names them.

    Args:
        run: the run's folder, or one of its checkpoint folders to take that step instead of the newest.
        overrides: ``key=value`` of the model keys, such as ``llm_weights=int8`` or
            ``checkpointer.checkpoint_dir=/models/llama`` where the language model lies elsewhere now. Relative paths
            are those of the working directory.

    Returns:
        The run's model, ``vision_checkpoint`` being the run's own.

    Raises:
        UserError: if the folder is not a run, holds no complete checkpoint, or an override is not a model key.
    """
    folder = Path(run).expanduser()
    if not folder.exists():
        raise UserError(f"{run}: there is no such run; give the output_dir of a training run")
    config = _find_config(folder)
    if config is None:
        find_vision_checkpoint(folder)
        raise UserError(
            f"{run} holds no {CONFIG_FILE}, so its language model is not known: give the output_dir of a training run,"
            f" or lay the {CONFIG_FILE} of the run that wrote it into the folder"
        )
    cfg = _load(config)
    for key in ("checkpointer.checkpoint_dir", "tokenizer.path", "tokenizer.chat_template"):
        named = OmegaConf.select(cfg, key)
        if isinstance(named, str) and (config.parent / named).exists():
            OmegaConf.update(cfg, key, str(config.parent / named))
    # What a training left out is not in its checkpoint, so that nothing is left to leave out.
    own = {"vision": None, "vision_checkpoint": str(_find_checkpoint(folder, config, cfg).parent), "without": []}
    stray = next((word for word in overrides if "=" not in word), None)
    if stray is not None:
        raise UserError(f"{stray!r} is not an override: write key=value, such as device=cpu")
    values: Any = OmegaConf.to_container(OmegaConf.merge(cfg, own), resolve=False)
    return check(override(values, overrides), ModelConfiguration)


def with_language_model(cfg: AnyKeys) -> tuple[AnyKeys, ModelConfiguration]:
    """Fill in the language model where a configuration leaves it to the run that ``vision_checkpoint`` names.

    Args:
        cfg: any configuration with the keys of a model; ``llm``, ``tokenizer`` and ``checkpointer.checkpoint_dir`` are
            all given, or none of them is.

    Returns:
        The same configuration with the language model, and the keys of its model alone.

    Raises:
        UserError: if only some of the three are given, or none and the run does not know them.
    """
    given = {
        "llm": cfg.llm,
        "tokenizer": cfg.tokenizer,
        "checkpointer.checkpoint_dir": cfg.checkpointer.checkpoint_dir,
    }
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        there = next(name for name in given if name not in missing)
        raise UserError(
            f"{missing[0]} is missing beside {there}: add it, or set {', '.join(given)} all to null to take the"
            " language model of the run in vision_checkpoint"
        )
    if missing and cfg.vision_checkpoint is None:
        raise UserError(
            "llm is missing: add llm, tokenizer and checkpointer, or vision_checkpoint=RUN, which knows them"
        )
    if missing:
        assert cfg.vision_checkpoint is not None
        try:
            run = read_run(cfg.vision_checkpoint)
        except UserError as error:
            raise UserError(f"llm is missing, and vision_checkpoint does not tell it: {error}") from error
        cfg = cfg.model_copy(
            update={
                "llm": run.llm,
                "tokenizer": run.tokenizer,
                "checkpointer": OptionalCheckpointerSection(**run.checkpointer.model_dump()),
            }
        )
    values = cfg.model_dump(include={*ModelConfiguration.model_fields})
    return cfg, check(OmegaConf.create(values), ModelConfiguration)


def read_dataset_keys(run: str | Path) -> dict[str, Any]:
    """Return the ``dataset`` section of a run's configuration; empty where it has none.

    Args:
        run: run as for :func:`read_run`, which has accepted it.
    """
    config = _find_config(Path(run).expanduser())
    written: Any = {} if config is None else OmegaConf.to_container(OmegaConf.load(config))
    return written.get("dataset") or {}


def fit_of_run(dataset: Mapping[str, Any]) -> str | None:
    """Return how images became square in a run's training where their rows did not say it.

    Args:
        dataset: as :func:`read_dataset_keys` gives it. ``view.fit`` of it counts, else what all its ``sources`` say.

    Returns:
        ``crop``, ``pad``, ``pad_mean`` or ``squash``; None for as the tower does it.
    """
    said = [(part.get("view") or {}).get("fit") for part in (dataset, *(dataset.get("sources") or []))]
    own, others = said[0], set(said[1:])
    return own if own is not None or len(others) != 1 else others.pop()


def find_run_checkpoint(run: str | Path) -> Path:
    """Return the file of tower and projector of an earlier run: of several steps, of the newest complete one.

    Args:
        run: the run's folder, whose checkpoints may lie elsewhere, or one of its step folders.

    Raises:
        UserError: if there is none.
    """
    folder = Path(run).expanduser()
    config = _find_config(folder) if folder.exists() else None
    return find_vision_checkpoint(folder) if config is None else _find_checkpoint(folder, config, _load(config))


def checkpoint_of(cfg: ModelConfiguration) -> Path:
    """Return the file of tower and projector of a configuration from :func:`read_run`, which always names them."""
    assert cfg.vision_checkpoint is not None
    return find_vision_checkpoint(Path(cfg.vision_checkpoint))


def run_root(run: str | Path) -> Path:
    """Return the folder that holds a run's configuration, logs and results.

    Args:
        run: run as for :func:`read_run`, which has accepted it.
    """
    config = _find_config(Path(run).expanduser())
    return Path(run).expanduser() if config is None else config.parent


def _load(config: Path) -> DictConfig:
    """Read the model keys of a run's configuration."""
    try:
        written: Any = OmegaConf.load(config)
        return OmegaConf.create({name: written[name] for name in ModelConfiguration.model_fields if name in written})
    except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{config} cannot be read: {reason}") from error


def _find_config(folder: Path) -> Path | None:
    """Return the nearest one upwards: a checkpoint lies two folders below its run."""
    start = folder if folder.is_dir() else folder.parent
    locations = [start, *start.absolute().parents][:3]
    return next((location / CONFIG_FILE for location in locations if (location / CONFIG_FILE).is_file()), None)


def _find_checkpoint(folder: Path, config: Path, cfg: DictConfig) -> Path:
    """Return the folder of the checkpoints, which may be outside of the run's folder."""
    elsewhere = OmegaConf.select(cfg, "checkpointer.output_dir")
    inside = folder != config.parent or latest_checkpoint(folder) is not None or (folder / DESCRIPTION_FILE).is_file()
    return find_vision_checkpoint(folder if inside or elsewhere is None else Path(elsewhere))
