"""Small random encoders in folders that transformers, open_clip and timm write themselves, with their processors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.vision_checkpoints import HUGGING_FACE_TEXT

_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_MAPS = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
_SQUARE = {"height": 56, "width": 56}
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class Encoder:
    """One encoder in its real format.

    Attributes:
        tokens: patch tokens of an image.
        size: edge of its images in pixels.
        write: writes the folder, and returns the library's own way from a picture to pixels ``[3, H, W]``, and from
            pixels ``[N, 3, H, W]`` to patch tokens.
    """

    tokens: int
    size: int
    write: Callable[[Path], tuple[Callable[[Image.Image], Tensor], Callable[[Tensor], Tensor]]]


def _transformers(
    name: str, config: dict[str, Any], processor: tuple[str, dict[str, Any]], tokens: Callable[[Any], Tensor]
) -> Callable[[Path], Any]:
    def write(folder: Path) -> Any:
        import transformers

        torch.manual_seed(0)
        made = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config))
        with torch.no_grad():
            for parameter in made.parameters():  # zeros and ones of an initialisation hide mistakes
                parameter.add_(0.05 * torch.randn_like(parameter))
        made.save_pretrained(folder)
        made_processor = getattr(transformers, processor[0])(**processor[1])
        made_processor.save_pretrained(folder)
        model = getattr(transformers, f"{name}Model").from_pretrained(folder).eval()
        vision = getattr(model, "vision_model", model)

        def encode(images: Tensor) -> Tensor:
            return tokens(vision(images, output_hidden_states=True))

        return lambda image: made_processor(image, return_tensors="pt")["pixel_values"][0].float(), encode

    return write


def _open_clip(vision: dict[str, Any], preprocess: dict[str, Any], tokens: Callable[[Any, Tensor], Tensor]) -> Any:
    def write(folder: Path) -> Any:
        import open_clip
        from open_clip.model import CustomTextCLIP
        from safetensors.torch import save_file

        text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
        torch.manual_seed(0)
        model = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
        state = CustomTextCLIP(12, dict(vision), dict(text)).state_dict()
        config = {"model_cfg": model, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        return transform, lambda images: tokens(theirs.eval().visual.trunk, images)

    return write


def _timm(name: str) -> Any:
    def write(folder: Path) -> Any:
        import timm
        from timm.data import create_transform, resolve_data_config
        from timm.models import save_for_hf

        torch.manual_seed(0)
        model = timm.create_model(name).eval()
        save_for_hf(model, str(folder), safe_serialization=True)
        settings = resolve_data_config(model=model)
        transform: Any = create_transform(**{**settings, "crop_pct": 1.0})
        return transform, lambda images: _as_tokens(model, model.forward_features(images))

    return write


def _as_tokens(trunk: Any, features: Tensor) -> Tensor:
    if features.ndim == 4:
        return features.flatten(2).transpose(1, 2)
    return features[:, trunk.num_prefix_tokens :]


def _last(prefix: int) -> Callable[[Any], Tensor]:
    return lambda output: output.last_hidden_state[:, prefix:]


def _map(output: Any) -> Tensor:
    return output.last_hidden_state.flatten(2).transpose(1, 2)


_PATCHES = {"image_size": 56, "patch_size": 14}
_BIT = ("BitImageProcessorPil", {"size": {"shortest_edge": 56}, "crop_size": _SQUARE, **_IMAGENET})
_DINOV3 = ("DINOv3ViTImageProcessor", {"size": {"height": 64, "width": 64}, **_IMAGENET})
ENCODERS = {
    "medsiglip": Encoder(
        16,
        56,
        _transformers(
            "Siglip",
            {"vision_config": {**_VIT, **_PATCHES, "intermediate_size": 32}, "text_config": HUGGING_FACE_TEXT},
            ("SiglipImageProcessorPil", {"size": _SQUARE, "resample": 2, **_HALF}),
            lambda output: output.hidden_states[-1],
        ),
    ),
    "clip": Encoder(
        16,
        56,
        _transformers(
            "CLIP",
            {"vision_config": {**_VIT, **_PATCHES, "intermediate_size": 32}, "text_config": HUGGING_FACE_TEXT},
            ("CLIPImageProcessorPil", {"size": {"shortest_edge": 56}, "crop_size": _SQUARE}),
            lambda output: output.hidden_states[-1][:, 1:],
        ),
    ),
    # The position grid is of another size than the images, as in the published models.
    "dinov2": Encoder(16, 56, _transformers("Dinov2", {**_VIT, **_PATCHES, "image_size": 70}, _BIT, _last(1))),
    "dinov2_with_registers": Encoder(
        16, 56, _transformers("Dinov2WithRegisters", {**_VIT, **_PATCHES, "num_register_tokens": 4}, _BIT, _last(5))
    ),
    "rad_dino": Encoder(
        16,
        56,
        _transformers(
            "Dinov2", {**_VIT, **_PATCHES}, (_BIT[0], {**_BIT[1], "image_mean": 0.5307, "image_std": 0.2583}), _last(1)
        ),
    ),
    "dinov3": Encoder(
        16,
        64,
        _transformers(
            "DINOv3ViT",
            {**_VIT, "patch_size": 16, "image_size": 224, "intermediate_size": 32, "num_register_tokens": 4},
            _DINOV3,
            _last(5),
        ),
    ),
    "dinov3_convnext": Encoder(4, 64, _transformers("DINOv3ConvNext", _MAPS, _DINOV3, _last(1))),
    "convnext": Encoder(
        144,
        384,
        _transformers("ConvNext", _MAPS, ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 384}}), _map),
    ),
    "convnextv2": Encoder(
        4,
        64,
        _transformers(
            "ConvNextV2",
            _MAPS,
            ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 64}, "crop_pct": 1.0, **_IMAGENET}),
            _map,
        ),
    ),
    "eva": Encoder(
        256,
        224,
        _open_clip(
            {
                "timm_model_name": "eva02_tiny_patch14_224",
                "timm_pool": "token",
                "timm_proj": "linear",
                "image_size": 224,
            },
            {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]},
            lambda trunk, images: _as_tokens(trunk, trunk.forward_features(images)),
        ),
    ),
    "open_clip_convnext": Encoder(
        9,
        96,
        _open_clip(
            {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 96},
            {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"},
            lambda trunk, images: _as_tokens(trunk, trunk.forward_features(images)),
        ),
    ),
    "timm_vit": Encoder(100, 160, _timm("test_vit")),
    "timm_convnext": Encoder(25, 160, _timm("test_convnext")),
}


def picture() -> Image.Image:
    """A picture that is not square, with detail."""
    rows, columns = np.mgrid[:120, :168]
    noise = np.random.default_rng(0).integers(0, 60, (120, 168))
    pixels = np.stack([rows % 256, columns % 256, (rows * columns // 64 + noise) % 256], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))
