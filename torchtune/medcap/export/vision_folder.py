"""The encoder alone, in the formats of transformers, open_clip and timm, for work that has no language model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from medcap.errors import UserError
from medcap.export.image_processor import image_processor_config
from medcap.export.llava.vision import without_progress
from medcap.files import write_json
from medcap.models.towers.base import Tower
from medcap.models.towers.hugging_face_tower import HuggingFaceTower
from medcap.models.towers.multi_scale import MultiScaleTower
from medcap.models.towers.open_clip_tower import (
    CONFIG_FILE,
    WEIGHT_FILES,
    OpenClipTimmTower,
    OpenClipTower,
    canonical_open_clip,
    open_clip_from_folder,
)
from medcap.models.towers.source import first_file
from medcap.models.towers.tensor_files import open_tensor_files, read_json
from medcap.models.towers.timm_tower import TimmTower
from medcap.models.towers.transformers_tower import TransformersTower

# What open_clip's tokenizers read of a local folder.
_TOKENIZER_FILES = (
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def write_vision_folder(tower: Tower, folder: Path, text_from: Path | None = None) -> list[str]:
    """Write an encoder so that the library that it comes from loads it, and ``vision=FOLDER`` here too.

    ======================================  ==========================================================================
    tower                                   folder
    ======================================  ==========================================================================
    CLIP, SigLIP of transformers            ``CLIPVisionModel``, ``CLIPVisionModelWithProjection`` or
                                            ``SiglipVisionModel``: ``config.json``, ``model.safetensors``,
                                            ``preprocessor_config.json``
    DINOv2, DINOv3, ConvNeXt of             its own model, such as ``Dinov2Model``: the same files
    transformers
    one with several scales                 the tower alone, as above
    open_clip, with ``text_from``           a whole open_clip model: ``open_clip_config.json``,
                                            ``open_clip_model.safetensors``, the base's tokenizer files
    open_clip around timm (BiomedCLIP)      the timm trunk without open_clip's projection: ``config.json``,
                                            ``model.safetensors``
    timm                                    the same
    ======================================  ==========================================================================

    Weights are fp32.

    Args:
        tower: tower with its weights.
        folder: exists, and is empty; the caller makes it appear as a whole.
        text_from: folder of the open_clip model that the encoder was tuned from; gives the text half.

    Returns:
        Notices for the user about the folder: how it is loaded, what is not in it.

    Raises:
        UserError: if the tower has no such format, ``text_from`` does not fit it.
    """
    if text_from is not None:
        if not isinstance(tower, OpenClipTimmTower | OpenClipTower):
            raise UserError(f"--text-from {text_from}: only an open_clip encoder has a text half to go with")
        return _write_open_clip(tower, folder, text_from)
    if isinstance(tower, MultiScaleTower):
        left_out = f"the scales {tower.scales} are left out: it is the encoder of one image of its own size"
        return [*write_vision_folder(tower.tower, folder), left_out]
    if "layers" in tower.spec:
        raise UserError(
            f"this {tower.spec['kind']} encoder is cut before its last layer, for which its library has no format: use"
            " its checkpoint by vision_checkpoint="
        )
    if isinstance(tower, HuggingFaceTower):
        return _write_hugging_face(tower, folder)
    if isinstance(tower, TransformersTower):
        return _write_transformers(tower, folder)
    if isinstance(tower, OpenClipTower):
        raise UserError(
            "open_clip has no format for this encoder without its text half: give the folder of the model that it was"
            f" tuned from, the one with {CONFIG_FILE}, by --text-from"
        )
    if isinstance(tower, OpenClipTimmTower | TimmTower):
        return _write_timm(tower, folder)
    raise UserError(
        f"the {tower.spec['kind']} encoder is this project's own and no other library's: use its checkpoint by"
        " vision_checkpoint="
    )


def _write_hugging_face(tower: HuggingFaceTower, folder: Path) -> list[str]:
    from transformers import CLIPVisionConfig, SiglipVisionConfig

    fields = {name: value for name, value in tower.spec["config"].items() if name != "model_type"}
    if not tower.is_clip:
        config, model = SiglipVisionConfig(**fields), "SiglipVisionModel"
    elif tower.visual_projection is None:
        config, model = CLIPVisionConfig(**fields), "CLIPVisionModel"
    else:
        config = CLIPVisionConfig(**fields, projection_dim=tower.spec["projection_dim"])
        model = "CLIPVisionModelWithProjection"
    write_json(folder / "config.json", {**json.loads(config.to_json_string(use_diff=False)), "architectures": [model]})
    write_json(folder / "preprocessor_config.json", image_processor_config(tower.preprocess))
    # The names with ``vision_model.``: transformers 4 needs them, later releases take them too.
    _save(_state(tower), folder / "model.safetensors")
    notices = [
        f"load it by transformers.{model}.from_pretrained(FOLDER); the pixels that it was tuned with come from"
        " transformers.AutoImageProcessor.from_pretrained(FOLDER, backend='pil')"
    ]
    if tower.preprocess.resize_mode == "shortest":
        notices.append("transformers cuts the middle of about a quarter of all shapes of images one pixel beside ours")
    return notices


def _write_transformers(tower: TransformersTower, folder: Path) -> list[str]:
    if not tower.has_pooled:
        raise UserError(
            "this encoder is cut before its last layer, without the final norm, for which transformers has no format:"
            " use its checkpoint by vision_checkpoint="
        )
    with without_progress():
        tower.model.to("cpu", torch.float32).save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", image_processor_config(tower.preprocess))
    return [
        "load it by transformers.AutoModel.from_pretrained(FOLDER); the pixels that it was tuned with come from"
        " transformers.AutoImageProcessor.from_pretrained(FOLDER, backend='pil')"
    ]


def _write_open_clip(tower: OpenClipTimmTower | OpenClipTower, folder: Path, text_from: Path) -> list[str]:
    if not (text_from / CONFIG_FILE).is_file():
        raise UserError(f"--text-from {text_from} holds no {CONFIG_FILE}: give the open_clip folder of the base model")
    base = open_clip_from_folder(text_from, weights=True)
    if canonical_open_clip(base.spec) != canonical_open_clip(tower.spec):
        raise UserError(f"--text-from {text_from} holds another encoder than the tuned one: give its own base model")
    weights = first_file(text_from, WEIGHT_FILES)
    assert weights is not None, "open_clip_from_folder has read it"
    files = open_tensor_files(weights)
    others = files.renamed(lambda name: None if name.startswith("visual.") else name).read()
    own = {name if name.startswith("visual.") else f"visual.{name}": value for name, value in _state(tower).items()}
    missing = {name for name in files.names if name.startswith("visual.")} - set(own)
    if missing:
        raise UserError(f"{weights}: tensor {min(missing)} has no place in the tuned encoder")
    config = read_json(text_from / CONFIG_FILE)
    preprocess = tower.preprocess
    config["preprocess_cfg"] = {
        **(config.get("preprocess_cfg") or {}),
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize_mode,
    }
    write_json(folder / CONFIG_FILE, config)
    for name in _TOKENIZER_FILES:
        if (text_from / name).is_file():
            shutil.copyfile(text_from / name, folder / name)
    _save({**others, **own}, folder / WEIGHT_FILES[0])
    return [
        "load it by open_clip.create_model_from_pretrained('local-dir:FOLDER')",
        f"the text half is that of {text_from}, which was not trained with the tuned encoder: what similarities of"
        " images and texts are worth now is not known",
    ]


def _write_timm(tower: OpenClipTimmTower | TimmTower, folder: Path) -> list[str]:
    from timm.models import save_for_hf

    preprocess = tower.preprocess
    data = {
        "input_size": (3, preprocess.image_size, preprocess.image_size),
        "mean": preprocess.mean,
        "std": preprocess.std,
        "interpolation": preprocess.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "squash" if preprocess.resize_mode == "squash" else "center",
    }
    try:
        save_for_hf(tower.trunk, str(folder), safe_serialization=True, data_config=data)
        _forget_origin(folder / "config.json")
        _check_timm(tower, folder)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        wanted = "" if isinstance(tower, TimmTower) else ": give the base model's folder by --text-from"
        raise UserError(f"timm cannot rebuild this encoder by itself ({reason}){wanted}") from error
    lines = ["load it by timm.create_model('local-dir:FOLDER', pretrained=True)"]
    if isinstance(tower, OpenClipTimmTower) and tower.head.state_dict():
        lines.append(
            "it is open_clip's trunk, whose patch tokens are the tuned encoder's; the projection into open_clip's image"
            " embedding is left out (--text-from BASE_FOLDER writes a whole open_clip model)"
        )
    return lines


def _forget_origin(path: Path) -> None:
    """Remove what timm's configuration says of its own weights of this architecture: these are others."""
    config = read_json(path)
    for name in ("tag", "license", "hf_hub_id", "origin_url", "paper_ids", "paper_name", "notes", "url", "file"):
        config["pretrained_cfg"].pop(name, None)
    write_json(path, config)


def _check_timm(tower: OpenClipTimmTower | TimmTower, folder: Path) -> None:
    """See that timm makes the same encoder of a folder.

    Raises:
        RuntimeError: if it does not.
    """
    import timm

    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    own = tower.trunk.state_dict()
    found = loaded.state_dict()
    if set(own) != set(found) or not all(torch.equal(own[name].cpu(), found[name]) for name in own):
        raise RuntimeError("its tensors get other names or values")
    if type(loaded) is not type(tower.trunk) or _pooling(loaded) != _pooling(tower.trunk):
        raise RuntimeError("its pooling is not kept")


def _pooling(trunk: Any) -> Any:
    return getattr(trunk, "global_pool", None) if isinstance(getattr(trunk, "global_pool", None), str) else None


def _state(tower: Tower) -> dict[str, Tensor]:
    """fp32 on the CPU, each tensor with its own memory."""
    return {
        name: tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in tower.state_dict().items()
    }


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})
