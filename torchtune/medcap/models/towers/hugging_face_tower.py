"""Vision encoders from Hugging Face folders; CLIP and SigLIP as whole models or vision halves, of which only that half
is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.models.towers.base import Tower
from medcap.models.towers.hub import fetch
from medcap.models.towers.image_processor import PREPROCESS_FILES, read_preprocess
from medcap.models.towers.source import ONLY_FILES, KnownPreprocess, TowerSource, first_file, note_pickle
from medcap.models.towers.tensor_files import TensorFiles, open_tensor_files, read_json
from medcap.models.towers.transformers_tower import FAMILIES, transformers_name, transformers_spec
from medcap.modules.quick_gelu import use_lean_quick_gelu

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_VISION_TYPES = {
    "clip": "clip_vision_model",
    "clip_vision_model": "clip_vision_model",
    "siglip": "siglip_vision_model",
    "siglip_vision_model": "siglip_vision_model",
}
_ARCHITECTURE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
)
# The parts of a whole CLIP or SigLIP model besides its vision half.
_TEXT_HALF = ("text_model.", "text_projection.", "logit_scale", "logit_bias")
_POSITION_IDS = "vision_model.embeddings.position_ids"


class HuggingFaceTower(Tower):
    """A CLIP or SigLIP vision encoder of transformers.

    Patch tokens are the last layer's output before the post layer norm (CLIP: without the class token). That is what
    LlavaForConditionalGeneration reads with ``vision_feature_layer=-1`` and the select strategy "default" for CLIP,
    "full" for SigLIP. The pooled vector is CLIP's image embedding before normalisation (the pooler's output where the
    checkpoint has no projection), or SigLIP's pooler output.

    Args:
        spec: ``config`` (fields of transformers' vision configuration with its model_type), ``projection_dim`` or None.
        preprocess: preprocess of the same model.
    """

    def __init__(self, spec: dict[str, Any], preprocess: Preprocess) -> None:
        super().__init__(spec, preprocess)
        self.is_clip = spec["config"]["model_type"] == "clip_vision_model"
        self.vision_model: Any = _build_vision_model(spec["config"])
        use_lean_quick_gelu(self.vision_model)
        self.visual_projection = None
        if spec["projection_dim"] is not None:
            self.visual_projection = nn.Linear(spec["config"]["hidden_size"], spec["projection_dim"], bias=False)
        self.has_pooled = self.is_clip or spec["config"].get("vision_use_head", True)

    def encode_patches(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, T, D]``."""
        hidden = self._hidden(images)
        return hidden[:, 1:] if self.is_clip else hidden

    def encode_pooled(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, projection_dim]``, or ``[N, D]`` without a projection.

        Raises:
            UserError: for a SigLIP encoder that was saved without its pooling head.
        """
        if not self.has_pooled:
            raise UserError("vision: this SigLIP encoder has no pooling head; use a projector that takes patches")
        hidden = self._hidden(images)
        if not self.is_clip:
            return self.vision_model.head(self.vision_model.post_layernorm(hidden))
        pooled = self.vision_model.post_layernorm(hidden[:, 0])
        return pooled if self.visual_projection is None else self.visual_projection(pooled)

    def restore_buffers(self) -> None:
        """Position numbers, which checkpoints do not hold."""
        embeddings = self.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions)[None]

    def _hidden(self, images: Tensor) -> Tensor:
        hidden = self.vision_model.embeddings(self._cast(images))  # [N, T or 1 + T, D]
        if self.is_clip:
            hidden = self.vision_model.pre_layrnorm(hidden)
        return self.vision_model.encoder(inputs_embeds=hidden).last_hidden_state


def hugging_face_from_folder(folder: Path, weights: bool, known: KnownPreprocess = ONLY_FILES) -> TowerSource:
    """Read a folder of transformers: ``config.json`` and ``model.safetensors``, single or sharded.

    Args:
        folder: folder written by ``hf download`` or ``save_pretrained``.
        weights: whether the weights are needed too.
        known: what is known of the preprocessing beside ``preprocessor_config.json``.

    Raises:
        UserError: if a file is missing or the model is of another kind.
    """
    config = read_json(folder / "config.json")
    model_type = str(config.get("model_type"))
    if model_type in FAMILIES:
        spec = transformers_spec(config, folder / "config.json")
        preprocess, notices = read_preprocess(folder, model_type, None, known)
        source = TowerSource(spec, preprocess, notices=notices)
        if weights:
            path = _weights_file(folder)
            source.weights = open_tensor_files(path).renamed(lambda name: transformers_name(model_type, name))
            _locate(source, path)
        return source
    vision_type = _VISION_TYPES.get(model_type)
    if vision_type is None:
        raise UserError(f"{folder / 'config.json'}: {_refusal(model_type)}")
    whole = "vision_config" in config
    spec = hugging_face_spec(vision_type, config.get("vision_config") or {} if whole else config, folder)
    architectures = config.get("architectures") or []
    if vision_type == "clip_vision_model" and (whole or "CLIPVisionModelWithProjection" in architectures):
        spec["projection_dim"] = config.get("projection_dim", 512)
    preprocess, notices = read_preprocess(folder, vision_type, spec["config"]["image_size"], known)
    source = TowerSource(spec, preprocess, notices=notices)
    if weights:
        path = _weights_file(folder)
        source.weights = _tower_names(open_tensor_files(path))
        _locate(source, path)
        has_projection = "visual_projection.weight" in source.weights.names
        spec["projection_dim"] = source.weights.shape("visual_projection.weight")[0] if has_projection else None
    return source


def _refusal(model_type: str) -> str:
    if model_type.startswith("siglip2"):
        return (
            f"model_type {model_type!r} is SigLIP 2 for images of any shape (NaFlex), which is not read here: use a"
            " checkpoint of a fixed size, such as google/siglip2-so400m-patch14-384, or timm's"
            " timm:naflexvit_base_patch16_siglip.v2_webli on squares"
        )
    known = ", ".join((*_VISION_TYPES, *FAMILIES))
    return f"model_type {model_type!r} is not a vision tower that is known here; {known} are"


def _weights_file(folder: Path) -> Path:
    path = first_file(folder, WEIGHT_FILES)
    if path is None:
        raise UserError(f"{folder} holds config.json but no {WEIGHT_FILES[0]}: download it into the same folder")
    return path


def _locate(source: TowerSource, path: Path) -> None:
    source.location = path
    source.notices += note_pickle(path)


def hugging_face_from_hub(repository: str, weights: bool, known: KnownPreprocess = ONLY_FILES) -> TowerSource:
    """Return the same folder format through the hub's cache."""
    folder = fetch(repository, ["config.json"], WEIGHT_FILES if weights else (), PREPROCESS_FILES)
    index = folder / "model.safetensors.index.json"
    if weights and first_file(folder, WEIGHT_FILES) == index:
        fetch(repository, sorted(set(read_json(index).get("weight_map", {}).values())))
    if first_file(folder, PREPROCESS_FILES) is None and known.usual is None and not known.given:
        fetch(repository, [], PREPROCESS_FILES)  # the rest was in the cache already
    return hugging_face_from_folder(folder, weights, known)


def hugging_face_spec(vision_type: str, fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a tower's specification from the fields of transformers' vision configuration.

    Args:
        vision_type: clip_vision_model or siglip_vision_model.
        fields: configuration fields; a missing one has transformers' default, one that no tower needs is left out.
        folder: where the fields come from, for messages.

    Raises:
        UserError: if they are impossible.
    """
    from transformers import CLIPVisionConfig, SiglipVisionConfig

    config_class = CLIPVisionConfig if vision_type == "clip_vision_model" else SiglipVisionConfig
    names = (*_ARCHITECTURE, *(() if vision_type == "clip_vision_model" else ("vision_use_head",)))
    try:
        config = config_class(**{name: fields[name] for name in names if name in fields})
    except Exception as error:  # transformers' validation raises classes of several libraries
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{folder / 'config.json'}: the vision configuration is impossible: {reason}") from error
    values = {name: getattr(config, name) for name in names}
    if not isinstance(values["image_size"], int) or not isinstance(values["patch_size"], int):
        raise UserError(f"{folder / 'config.json'}: image_size and patch_size must be one number each (square images)")
    return {"kind": "hugging_face", "config": {"model_type": vision_type, **values}, "projection_dim": None}


def _tower_names(files: TensorFiles) -> TensorFiles:
    """Names of the tower, from a whole model, a vision half with ``vision_model.``, or one without."""
    prefixed = any(name.startswith("vision_model.") for name in files.names)

    def rename(name: str) -> str | None:
        name = name if prefixed or name.startswith(("visual_projection.", *_TEXT_HALF)) else f"vision_model.{name}"
        return None if name.startswith(_TEXT_HALF) or name == _POSITION_IDS else name

    return files.renamed(rename)


def _build_vision_model(config: Mapping[str, Any]) -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

    fields = {name: value for name, value in config.items() if name != "model_type"}
    if config["model_type"] == "clip_vision_model":
        model = CLIPVisionModel(CLIPVisionConfig(**fields))
    else:
        model = SiglipVisionModel(SiglipVisionConfig(**fields))
    # Earlier releases of transformers wrap the encoder once more.
    return getattr(model, "vision_model", model)
