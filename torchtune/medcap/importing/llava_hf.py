"""A LlavaForConditionalGeneration folder, ours or llava-hf's, in our terms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcap.errors import UserError
from medcap.export.llava.folder import ADDED_WORDS
from medcap.export.llava.vision import VIT_BLOCK, VIT_OUTSIDE
from medcap.export.parts import FOLDER as PARTS
from medcap.export.parts import parts_of
from medcap.importing.added_words import take_words
from medcap.importing.imported_model import ImportedModel
from medcap.importing.language import SourceTensors, complete_config, stored_language
from medcap.importing.vision_parts import check_activation, padding_notices, projector_from_tensors, tower_from_tensors
from medcap.models.towers.base import Tower
from medcap.models.towers.hugging_face_tower import hugging_face_spec
from medcap.models.towers.image_processor import read_preprocess
from medcap.models.towers.source import TowerSource

# The two layouts that transformers has written, without the part's name.
_LANGUAGE = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "lm_head.": "lm_head.",
}
_STRATEGIES = {"clip_vision_model": "default", "siglip_vision_model": "full", "vit": "default"}


def import_llava_hf(folder: Path, config: Mapping[str, Any], tokenizer: Path | None) -> ImportedModel:
    """Read the folder; the language model stays in its files until it is written.

    Args:
        folder: folder with config.json and safetensors files.
        config: its config.json.
        tokenizer: a tokenizer.model to use instead of the folder's.

    Raises:
        UserError: if it holds something that we have no place for.
    """
    location = folder / "config.json"
    check_activation(config.get("projector_hidden_act", "gelu"), location)
    language = complete_config(config.get("text_config") or {"model_type": "llama"}, location)
    if config.get("tie_word_embeddings"):
        language["tie_word_embeddings"] = True
    tensors = SourceTensors(folder)
    _check_names(tensors.names, folder)
    pending = tensors.pending(language_name)
    further = []
    if ADDED_WORDS in config:
        words, pending = take_words(config[ADDED_WORDS], language, pending)
        further.append(words.state())
    if (folder / PARTS).is_dir():
        further += [part.state() for part in parts_of(folder / PARTS).values()]
    imported = stored_language(folder, language, pending, tokenizer)
    tower = _tower(folder, config, tensors.named(tower_name))
    projector = projector_from_tensors(tensors.named(projector_name), tower, language["hidden_size"], folder)
    return ImportedModel(tower, projector, language["hidden_size"], imported, padding_notices(config), further)


def tower_name(name: str) -> str | None:
    """Return what follows ``vision_tower.``, None for other tensors and for entries that are not weights."""
    name = name.removeprefix("model.")
    if not name.startswith("vision_tower.") or name.endswith("position_ids"):
        return None
    return name.removeprefix("vision_tower.").removeprefix("vision_model.")


def projector_name(name: str) -> str | None:
    """``linear_1`` and ``linear_2`` by our numbers, None for other tensors."""
    name = name.removeprefix("model.")
    if not name.startswith("multi_modal_projector."):
        return None
    return name.removeprefix("multi_modal_projector.").replace("linear_1.", "0.").replace("linear_2.", "2.")


def language_name(name: str) -> str | None:
    """Hugging Face's name in a language model of its own, None for other tensors."""
    for prefix, instead in _LANGUAGE.items():
        if name.startswith(prefix):
            return instead + name.removeprefix(prefix)
    return None


def _check_names(names: list[str], folder: Path) -> None:
    for name in names:
        known = name.endswith("position_ids") or tower_name(name) or projector_name(name) or language_name(name)
        if not known:
            raise UserError(f"{folder}: tensor {name} belongs to no tower, projector or language model of LLaVA")


def _tower(folder: Path, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Tower:
    location = folder / "config.json"
    vision = config.get("vision_config") or {}
    kind = vision.get("model_type")
    if kind not in _STRATEGIES:
        raise UserError(f"{location}: the vision model is a {kind}; medcap import knows {', '.join(_STRATEGIES)}")
    layer = config.get("vision_feature_layer", -2)
    strategy = config.get("vision_feature_select_strategy", "default")
    if not isinstance(layer, int) or strategy != _STRATEGIES[kind]:
        raise UserError(
            f"{location}: vision_feature_layer={layer} with vision_feature_select_strategy={strategy} is not supported;"
            f" medcap reads all patches of one layer of a {kind} ({_STRATEGIES[kind]!r})"
        )
    if kind == "vit":
        return _vit(folder, vision, layer, tensors)
    if kind == "siglip_vision_model":
        vision = {**vision, "vision_use_head": any(name.startswith("head.") for name in tensors)}
    spec = hugging_face_spec(kind, vision, folder)
    preprocess, notices = read_preprocess(folder, kind, spec["config"]["image_size"])
    source = TowerSource(spec, preprocess, location=folder, notices=notices)
    named = {f"vision_model.{name}": tensor for name, tensor in tensors.items()}
    return tower_from_tensors(source, named, folder, layer)


def _vit(folder: Path, vision: Mapping[str, Any], layer: int, tensors: dict[str, Tensor]) -> Tower:
    name = vision.get("timm_model_name")
    if not name or layer != -1 or not vision.get("tie_last_hidden_states"):
        raise UserError(
            f"{folder / 'config.json'}: a vit is imported only from medcap's own exports (timm_model_name, layer -1,"
            " tie_last_hidden_states)"
        )
    spec = {"kind": "timm", "name": name, "image_size": vision["image_size"]}
    preprocess, notices = read_preprocess(folder, "clip_vision_model", vision["image_size"])
    source = TowerSource(spec, preprocess, location=folder, notices=notices)
    return tower_from_tensors(source, _timm_tensors(tensors), folder, layer)


def _timm_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of transformers' ViT to timm's trunk, query, key and value in one matrix again."""
    trunk = {f"trunk.{timm}": tensors[name] for timm, name in VIT_OUTSIDE.items() if name in tensors}
    numbers = {name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")}
    for number in numbers:
        for timm, names in VIT_BLOCK.items():
            for leaf in ("weight", "bias"):
                parts = [tensors.get(f"encoder.layer.{number}.{name}.{leaf}") for name in names]
                there = [part for part in parts if part is not None]
                if there:
                    trunk[f"trunk.blocks.{number}.{timm}.{leaf}"] = torch.cat(there)
    return trunk
