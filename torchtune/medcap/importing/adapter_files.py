"""Open low-rank adapters of other systems: folders of PEFT and of LLaVA-like trainers, and torchtune's files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.errors import UserError
from medcap.importing.llava_hf import projector_name as projector_name_of_transformers
from medcap.importing.llava_original import projector_name, tower_name
from medcap.models.llm_lora import TARGETS
from medcap.models.towers.tensor_files import TensorFiles, open_tensor_files, read_json

CONFIG_FILE = "adapter_config.json"
FURTHER_FILE = "non_lora_trainables.bin"
# The names that PEFT and torchtune write. The order matters: torchtune writes two of them with the same content.
_WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
_NUMBERED = re.compile(r"adapter_(\d+)\.pt")
# Options of PEFT with which the model is not W + scale * B A, unless they have one of the values of _OFF.
_OFF = (None, False, {}, [], "", "none")
_REFUSED = (
    "use_dora", "use_qalora", "lora_bias", "bias", "rank_pattern", "alpha_pattern", "fan_in_fan_out",
    "trainable_token_indices", "target_parameters", "layer_replication", "alora_invocation_tokens", "arrow_config",
)  # fmt: skip
# Initialisations of PEFT that also change the base weights; such adapters do not fit the original base.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PROJECTORS = ("mm_projector", "multi_modal_projector")
# Names in a language model alone, or in a LLaVA: LLaVA's own classes, and those of transformers 5 and 4.
_UPDATE = re.compile(
    r"(?:base_model\.model\.)?(?:|model\.|model\.language_model\.|(?:model\.)?language_model\.model\.)"
    r"layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])(?:\.\w+)?\.weight"
)
_TORCHTUNE = re.compile(r"layers\.\d+\.(?:attn|mlp)\.\w+\.lora_[ab]\.weight")


@dataclass(frozen=True)
class AdapterFiles:
    """Adapters whose options are checked but whose weights are not read yet.

    Attributes:
        location: file of the weights.
        options: the arguments ``rank``, ``alpha``, ``dropout`` and ``rank_stabilised`` of ``llm_lora``.
        updates: the matrices, under torchtune's names.
        half_rotation: whether the rows of queries and keys are in Hugging Face's order rather than torchtune's.
        projector: tensors of a projector that was trained with the adapters, under the projector's own names.
        tower: tensors of a vision tower that was trained with the adapters, under the tower's own names.
        further: file of the projector and tower.
        targets: names of ``TARGETS`` that ``adapter_config.json`` lists; one without weights means a damaged file.
        base: name of the model that the adapters were trained for, from ``adapter_config.json``; None if not given.
    """

    location: Path
    options: dict[str, Any]
    updates: TensorFiles
    half_rotation: bool
    projector: TensorFiles
    tower: TensorFiles
    further: Path
    targets: frozenset[str]
    base: str | None


def holds_adapters(source: Path) -> bool:
    """Return whether a folder holds adapters, or a file is named like one of adapters."""
    if source.is_dir():
        return (source / CONFIG_FILE).is_file() or _weights_in(source) is not None
    return source.name in _WEIGHT_FILES or _NUMBERED.fullmatch(source.name) is not None


def open_adapters(source: Path) -> AdapterFiles:
    """Read the options of adapters and the headers of their weight files.

    Args:
        source: a folder with ``adapter_config.json``, or a weight file in such a folder.

    Returns:
        The adapters.

    Raises:
        UserError: if a file is missing or damaged, or ``llm_lora`` cannot represent the adapters.
    """
    folder = source if source.is_dir() else source.parent
    file = _weights_in(source) if source.is_dir() else source
    if file is None:
        raise UserError(f"{source} holds no adapters: neither {', '.join(_WEIGHT_FILES)} nor adapter_0.pt")
    location = folder / CONFIG_FILE
    if not location.is_file():
        raise UserError(
            f"{file} does not say what its updates are multiplied by: lay {CONFIG_FILE} beside it, such as"
            ' {"peft_type": "LORA", "r": 8, "lora_alpha": 16}, with the values that it was trained with'
        )
    config = read_json(location)
    options = _options(config, location)
    own = open_tensor_files(file)
    further, others = file, own
    if (folder / FURTHER_FILE).is_file():
        further = folder / FURTHER_FILE
        others = open_tensor_files(further)
    projector = own.renamed(_projector)
    projector = projector if projector.names else others.renamed(_projector)
    tower = others.renamed(_tower)
    torchtune = any(_TORCHTUNE.fullmatch(name) for name in own.names)
    updates = own if torchtune else own.renamed(_torchtune_name)
    updates = updates.renamed(lambda name: name if _TORCHTUNE.fullmatch(name) else None)
    if not updates.names:
        raise UserError(f"{file} holds no adapters of a language model's layers: name another file or folder")
    _check_all_known(own, file, torchtune)
    if others is not own:
        _check_all_known(others, further, False)
    return AdapterFiles(
        file, options, updates, not torchtune, projector, tower, further, _named_targets(config),
        config.get("base_model_name_or_path") or None,
    )  # fmt: skip


def _weights_in(folder: Path) -> Path | None:
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    numbered = [(int(found[1]), path) for path in folder.iterdir() if (found := _NUMBERED.fullmatch(path.name))]
    return max(numbered)[1] if numbered else None


def _options(config: Mapping[str, Any], location: Path) -> dict[str, Any]:
    kind = config.get("peft_type", "LORA")
    if str(kind).upper() != "LORA":
        raise UserError(f"{location}: peft_type={kind}; medcap import takes LORA only: merge the adapters with PEFT")
    for key in _REFUSED:
        if config.get(key) not in _OFF:
            raise UserError(f"{location}: {key}={config[key]} has no place in llm_lora; merge the adapters with PEFT")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise UserError(
            f"{location}: init_lora_weights={start} changed the base model's weights too; convert the adapters with"
            " PEFT's path_initial_model_for_weight_conversion, or merge them with PEFT"
        )
    for name in config.get("modules_to_save") or ():
        if str(name).rpartition(".")[2] not in _PROJECTORS:
            raise UserError(
                f"{location}: modules_to_save has {name}; besides adapters only a projector ({', '.join(_PROJECTORS)})"
                " can be imported; merge the adapters with PEFT"
            )
    rank, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout") or 0.0
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise UserError(f"{location}: r={rank} is not a rank: a whole number from 1")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise UserError(f"{location}: lora_alpha={alpha} is not a number above 0")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"{location}: lora_dropout={dropout} is not a share below 1")
    return {
        "rank": rank,
        "alpha": float(alpha),
        "dropout": float(dropout),
        "rank_stabilised": config.get("use_rslora") is True,
    }


def _named_targets(config: Mapping[str, Any]) -> frozenset[str]:
    named = config.get("target_modules")
    return frozenset(name for name in named if name in TARGETS) if isinstance(named, list) else frozenset()


def _torchtune_name(name: str) -> str | None:
    found = _UPDATE.fullmatch(name)
    if found is None or found[2] not in TARGETS:
        return None
    return f"layers.{found[1]}.{TARGETS[found[2]]}.lora_{found[3].lower()}.weight"


def _plain(name: str) -> str:
    return re.sub(r"\.modules_to_save(?:\.default)?\.", ".", name.removeprefix("base_model.model."))


def _projector(name: str) -> str | None:
    plain = _plain(name)
    return None if ".lora_" in plain else projector_name(plain) or projector_name_of_transformers(plain)


def _tower(name: str) -> str | None:
    plain = _plain(name)
    return None if ".lora_" in plain else tower_name(plain)


def _check_all_known(stored: TensorFiles, file: Path, torchtune: bool) -> None:
    """Refuse tensors that would silently be left out of the run."""
    known = _TORCHTUNE.fullmatch if torchtune else _torchtune_name
    for name in sorted(stored.names):
        if known(name) or _projector(name) or _tower(name) or name.endswith("position_ids"):
            continue
        what = "adapters of" if "lora_" in name else "weights of"
        if "magnitude" in name:
            what = "DoRA's magnitudes for"
        raise UserError(
            f"{file}: tensor {name}: {what} something else than the linear maps of the language model's layers"
            " (q_proj, ..., down_proj) and the projector have no place here; merge the adapters with PEFT"
        )
