"""What a run's folder says of its model: parts, data, training and scores, with no path of the user's machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from medcap.checkpoints.keys import ModelConfiguration
from medcap.checkpoints.run import CONFIG_FILE, checkpoint_of
from medcap.checkpoints.vision_files import SavedVision, read_vision_checkpoint
from medcap.data.json_text import parse_json
from medcap.datasets.source_keys import source_files
from medcap.errors import UserError
from medcap.evaluation.predictions import checkpoint_fingerprint
from medcap.evaluation.runner import METRICS
from medcap.models.towers.registry import NAMED_TOWERS
from medcap.models.towers.tensor_files import read_json

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_STATE = Path("state", "state.json")


@dataclass(frozen=True)
class RunFacts:
    """A run's facts; None or empty where its folder does not say.

    Attributes:
        config: the whole of config.yaml.
        vision: the exported checkpoint.
        summary: summary.json.
        language_model: the language model's name: on the hub, or that of its folder.
        language_model_on_hub: its name on the hub.
        tower: the tower's name: on the hub, or that of its folder.
        tower_on_hub: its name on the hub.
        data: names of the data files.
        data_fingerprint: data fingerprint of rows, tokenizer and settings of the training set.
        scores: content of the tasks' metrics.json that belong to this checkpoint.
        other_scores: tasks that were scored with another checkpoint.
    """

    config: Mapping[str, Any]
    vision: SavedVision
    summary: Mapping[str, Any]
    language_model: str
    language_model_on_hub: str | None
    tower: str
    tower_on_hub: str | None
    data: list[str]
    data_fingerprint: str | None
    scores: list[Mapping[str, Any]]
    other_scores: list[str]


def read_facts(root: Path, cfg: ModelConfiguration, base_model: str | None = None) -> RunFacts:
    """Read the folder.

    Args:
        root: the run's.
        cfg: configuration as ``read_run`` gives it.
        base_model: the language model's name on the hub; None looks for it in its folder.

    Raises:
        UserError: if ``base_model`` is no such name.
    """
    if base_model is not None and not _HUB_NAME.fullmatch(base_model):
        raise UserError(
            f"--base-model {base_model} is not a name on the hub: write it as meta-llama/Llama-3.1-8B-Instruct"
        )
    file = checkpoint_of(cfg)
    config: Any = OmegaConf.to_container(OmegaConf.load(root / CONFIG_FILE))
    assert isinstance(config, dict), "read_run has read it"
    tower, tower_on_hub = _tower(config.get("vision"))
    llm_folder = Path(cfg.checkpointer.checkpoint_dir)
    scores, others = _scores(root, checkpoint_fingerprint(file))
    on_hub = base_model or _hub_name_in(llm_folder / "config.json")
    state = _read(file.parent / _STATE)
    plan = state.get("value", {}).get("plan") or [None]
    return RunFacts(
        config=config,
        vision=read_vision_checkpoint(file),
        summary=_read(root / "summary.json"),
        language_model=on_hub or llm_folder.absolute().name,
        language_model_on_hub=on_hub,
        tower=tower,
        tower_on_hub=tower_on_hub,
        data=[Path(str(name)).name for name in source_files(config.get("dataset") or {})],
        data_fingerprint=plan[0],
        scores=scores,
        other_scores=others,
    )


def _tower(vision: Any) -> tuple[str, str | None]:
    name = vision.get("name") if isinstance(vision, Mapping) else vision
    if name in NAMED_TOWERS:
        return str(name), NAMED_TOWERS[name].repository
    if not isinstance(name, str):
        return "as vision_checkpoint brought it", None
    if Path(name).expanduser().exists() or not _HUB_NAME.fullmatch(name):
        return Path(name).name, None
    return name, name


def _hub_name_in(config: Path) -> str | None:
    """Forget where a model was loaded from, which transformers remembers by its name or by its folder."""
    name = _read(config).get("_name_or_path")
    return name if isinstance(name, str) and _HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def _scores(root: Path, fingerprint: str) -> tuple[list[Mapping[str, Any]], list[str]]:
    scores, others = [], []
    for path in sorted(root.glob(f"*/{METRICS}")):
        metrics = read_json(path)
        if "protocols" not in metrics or "task" not in metrics:
            continue
        # [Contract] numbers of another step of the run would be reported as this one's.
        if metrics.get("settings", {}).get("vision_checkpoint_sha256") == fingerprint:
            scores.append(metrics)
        else:
            others.append(metrics["task"])
    return scores, others


def _read(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
