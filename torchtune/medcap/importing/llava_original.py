"""LLaVA's own format: a language model's folder with ``mm_*`` keys, or its ``mm_projector.bin`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from medcap.errors import UserError
from medcap.importing.added_words import take_words
from medcap.importing.imported_model import ImportedLanguage, ImportedModel
from medcap.importing.language import SourceTensors, complete_config, named_language, stored_language
from medcap.importing.vision_parts import (
    check_not_empty,
    named_tower,
    padding_notices,
    projector_from_tensors,
    tower_from_tensors,
)
from medcap.models.towers.base import Tower
from medcap.models.towers.registry import resolve_tower
from medcap.models.towers.tensor_files import open_tensor_files

MODEL_TYPES = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral"}
DEFAULT_LAYER = -2
_PROJECTORS = ("linear", "mlp2x_gelu", "identity")
_TOWER = "model.vision_tower.vision_tower."
_PROJECTOR = "mm_projector."
_IMAGE_WORDS = {"tokens": ["<im_start>", "<im_end>"], "image_words": ["<im_start>", "<im_end>"]}


def import_llava_original(
    folder: Path, config: Mapping[str, Any], vision: str | None, select_layer: int | None, tokenizer: Path | None
) -> ImportedModel:
    """Read the folder; the language model stays in its files until it is written.

    Args:
        folder: folder with config.json and safetensors files.
        config: its config.json.
        vision: the tower, if not the one that ``mm_vision_tower`` names.
        select_layer: if not ``mm_vision_select_layer``.
        tokenizer: a tokenizer.model to use instead of the folder's.

    Raises:
        UserError: if it holds something that we have no place for.
    """
    location = folder / "config.json"
    layer = check_vision_keys(config, location, select_layer)
    named = vision or config.get("mm_vision_tower")
    if not named:
        raise UserError(f"{location} names no mm_vision_tower: give it as --vision FOLDER")
    plain = {key: value for key, value in config.items() if not key.startswith("mm_")}
    language = complete_config({**plain, "model_type": MODEL_TYPES[config["model_type"]]}, location)
    tensors = SourceTensors(folder)
    pending, further = tensors.pending(_language_name), []
    if config.get("mm_use_im_start_end"):
        # LLaVA adds them last (initialize_vision_tokenizer in llava/model/llava_arch.py).
        words, pending = take_words(_IMAGE_WORDS, language, pending)
        further.append(words.state())
    imported = stored_language(folder, language, pending, tokenizer)
    tower, notices = read_tower(tensors.named(tower_name), folder, named, layer)
    projector = projector_from_tensors(tensors.named(projector_name), tower, language["hidden_size"], folder)
    notices += padding_notices(config)
    return ImportedModel(tower, projector, language["hidden_size"], imported, notices, further)


def check_vision_keys(config: Mapping[str, Any], location: Path, select_layer: int | None) -> int:
    """See that medcap has what the ``mm_*`` keys of a configuration ask for.

    Args:
        config: a LLaVA's config.json.
        location: its place, for messages.
        select_layer: the layer to read, if not ``mm_vision_select_layer``.

    Returns:
        Which hidden state the projector reads.

    Raises:
        UserError: naming what medcap lacks.
    """
    kind = config.get("mm_projector_type", "linear")
    if kind not in _PROJECTORS:
        raise UserError(f"{location}: mm_projector_type={kind}; medcap import knows {', '.join(_PROJECTORS)}")
    if "unpad" in config.get("mm_patch_merge_type", "flat") or config.get("image_aspect_ratio") == "anyres":
        raise UserError(
            f"{location}: LLaVA 1.6 cuts a picture into tiles, which medcap does not; LLaVA 1 and 1.5 can be imported"
        )
    if config.get("mm_vision_select_feature", "patch") != "patch":
        raise UserError(f"{location}: mm_vision_select_feature must be patch: medcap reads patch tokens only")
    return config.get("mm_vision_select_layer", DEFAULT_LAYER) if select_layer is None else select_layer


def vision_notices(config: Mapping[str, Any]) -> list[str]:
    """Say how a LLaVA's pictures and prompts differ from ours.

    Args:
        config: its config.json.
    """
    notices = padding_notices(config)
    if config.get("mm_use_im_start_end"):
        notices.append(
            "this model was trained with <im_start> and <im_end> around an image; medcap's prompts lack them"
        )
    return notices


def import_projector(
    file: Path, vision: str | None, select_layer: int | None, llm: Path | None, tokenizer: Path | None
) -> ImportedModel:
    """Read a projector's own file, as LLaVA's first stage writes it.

    Args:
        file: ``mm_projector.bin``; only torch's weights-only loader touches it.
        vision: its tower.
        select_layer: which hidden state it reads; None is LLaVA's -2.
        llm: folder of the language model that it was trained for.
        tokenizer: a tokenizer.model to use instead of that folder's.

    Raises:
        UserError: if the file is none, or no tower is named.
    """
    stored = open_tensor_files(file)
    found = stored.renamed(projector_name)
    if not found.names:
        raise UserError(f"{file} holds no tensor named *{_PROJECTOR}*, so it is not a projector of LLaVA")
    if not vision:
        raise UserError(f"{file} does not say which tower it reads: give --vision FOLDER, such as CLIP's")
    weights: dict[str, Tensor] = found.read()
    language = None if llm is None else named_language(llm, tokenizer)
    width = projector_width(weights, file, language)
    tower, notices = named_tower(vision, DEFAULT_LAYER if select_layer is None else select_layer)
    others = len(stored.names) - len(found.names)
    if others:
        left_out = f"{others} tensors of {file.name} are no projector's (such as embeddings): left out"
        notices = [*notices, left_out]
    projector = projector_from_tensors(weights, tower, width, file)
    return ImportedModel(tower, projector, width, language, notices)


def projector_width(weights: Mapping[str, Tensor], file: Path, language: ImportedLanguage | None) -> int:
    """Return the width of the embeddings that a projector makes.

    Args:
        weights: tensors of a linear projector or a two-layer one.
        file: their place, for messages.
        language: language model that must have this width; None for any.

    Raises:
        UserError: if it is another projector, or for another language model.
    """
    check_not_empty(weights, file)
    last = weights.get("2.weight", weights.get("weight"))
    if last is None or last.ndim != 2:
        raise UserError(f"{file}: the projector is neither a linear one nor a two-layer MLP")
    if language is not None and language.llm["embed_dim"] != len(last):
        raise UserError(
            f"{file} is for a language model of width {len(last)}, and --llm {language.folder} has"
            f" {language.llm['embed_dim']}"
        )
    return len(last)


def read_tower(own: Mapping[str, Tensor], folder: Path, named: str, select_layer: int) -> tuple[Tower, list[str]]:
    """Return the tower of a LLaVA: a tuned one is in the model's own files, another is only named there.

    Args:
        own: tensors of a tuned tower under its own names; empty for another.
        folder: where they come from, for messages.
        named: the tower, as ``vision=`` takes it.
        select_layer: which hidden state the projector reads.

    Returns:
        The tower with weights, and lines that the user should see.
    """
    if not own:
        return named_tower(named, select_layer)
    source = resolve_tower(named, weights=False)
    # LLaVA keeps CLIP's tower without the projection of its pooled vector.
    source.spec = {**source.spec, "projection_dim": None}
    return tower_from_tensors(source, own, folder, select_layer), list(source.notices)


def tower_name(name: str) -> str | None:
    """Return a tensor's name in the vision tower, None for other tensors."""
    return name.removeprefix(_TOWER) if name.startswith(_TOWER) and not name.endswith("position_ids") else None


def projector_name(name: str) -> str | None:
    """Return a tensor's name in the projector, None for other tensors; files of LoRA runs have more before it."""
    before, found, rest = name.rpartition(_PROJECTOR)
    return rest if found and (not before or before.endswith("model.")) else None


def _language_name(name: str) -> str | None:
    return None if name.startswith(_TOWER) or projector_name(name) or name.endswith("inv_freq") else name
