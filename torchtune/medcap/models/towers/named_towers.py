"""The towers that have a name: where their weights are, under which licence, and what they look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medcap.models.preprocess import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocess


@dataclass(frozen=True)
class NamedTower:
    """A tower with a name in medcap; its architecture is known without a download.

    Attributes:
        repository: where its weights are on the hub.
        licence: licence of the weights, in words.
        spec: spec as ``Tower.spec``.
        preprocess: preprocess as ``Tower.preprocess``.
        parameters: number of parameters.
        tokens: patch tokens of an image.
        any_size: whether it takes images of other sizes, by ``vision.preprocess.image_size``.
    """

    repository: str
    licence: str
    spec: dict[str, Any]
    preprocess: Preprocess
    parameters: int
    tokens: int
    any_size: bool = False

    @property
    def library(self) -> str:
        """The library that its code and files are of."""
        return "open_clip" if self.spec["kind"] == "open_clip" else "transformers"


def _open_clip(embed_dim: int, **vision: Any) -> dict[str, Any]:
    return {"kind": "open_clip", "embed_dim": embed_dim, "vision_cfg": vision, "quick_gelu": False}


def _siglip_so400m(image_size: int) -> dict[str, Any]:
    return {
        "kind": "hugging_face",
        "config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "num_channels": 3,
            "image_size": image_size,
            "patch_size": 14,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0,
            "vision_use_head": True,
        },
        "projection_dim": None,
    }


def _dinov2(hidden_size: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "kind": "transformers",
        "config": {
            "model_type": "dinov2",
            "hidden_size": hidden_size,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "layerscale_value": 1.0,
            "image_size": 518,
            "patch_size": 14,
            "num_channels": 3,
            "mlp_ratio": 4,
            "qkv_bias": True,
            "use_swiglu_ffn": False,
            "use_mask_token": True,
        },
    }


# Architectures and preprocessing as in the configuration files of the repositories.
NAMED_TOWERS = {
    "biomedclip": NamedTower(
        "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        "MIT",
        _open_clip(512, timm_model_name="vit_base_patch16_224", timm_pool="", timm_proj="linear", image_size=224),
        Preprocess(224, CLIP_MEAN, CLIP_STD),
        86_191_872,
        196,
    ),
    "medsiglip": NamedTower(
        "google/medsiglip-448",
        "Health AI Developer Foundations terms, on request",
        _siglip_so400m(448),
        Preprocess(448, HALF, HALF, "bilinear", "squash"),
        428_565_440,
        1024,
    ),
    "siglip2": NamedTower(
        "google/siglip2-so400m-patch14-384",
        "Apache-2.0",
        _siglip_so400m(384),
        Preprocess(384, HALF, HALF, "bilinear", "squash"),
        428_225_600,
        729,
    ),
    "siglip": NamedTower(
        "google/siglip-so400m-patch14-384",
        "Apache-2.0",
        _siglip_so400m(384),
        Preprocess(384, HALF, HALF, resize_mode="squash"),
        428_225_600,
        729,
    ),
    "clip": NamedTower(
        "openai/clip-vit-large-patch14-336",
        "MIT",
        {
            "kind": "hugging_face",
            "config": {
                "model_type": "clip_vision_model",
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "num_channels": 3,
                "image_size": 336,
                "patch_size": 14,
                "hidden_act": "quick_gelu",
                "layer_norm_eps": 1e-5,
                "attention_dropout": 0.0,
            },
            "projection_dim": 768,
        },
        Preprocess(336, CLIP_MEAN, CLIP_STD),
        304_293_888,
        576,
    ),
    "rad_dino": NamedTower(
        "microsoft/rad-dino",
        "Microsoft Research licence, research only",
        _dinov2(768, 12, 12),
        Preprocess(518, (0.5307, 0.5307, 0.5307), (0.2583, 0.2583, 0.2583)),
        86_580_480,
        1369,
        any_size=True,
    ),
    "dinov2": NamedTower(
        "facebook/dinov2-large",
        "Apache-2.0",
        _dinov2(1024, 24, 16),
        Preprocess(224, IMAGENET_MEAN, IMAGENET_STD),
        304_368_640,
        256,
        any_size=True,
    ),
    "dinov3": NamedTower(
        "facebook/dinov3-vitl16-pretrain-lvd1689m",
        "DINOv3 licence, on request",
        {
            "kind": "transformers",
            "config": {
                "model_type": "dinov3_vit",
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "hidden_act": "gelu",
                "layer_norm_eps": 1e-5,
                "layerscale_value": 1.0,
                "image_size": 224,
                "patch_size": 16,
                "num_channels": 3,
                "intermediate_size": 4096,
                "rope_theta": 100.0,
                "query_bias": True,
                "key_bias": False,
                "value_bias": True,
                "proj_bias": True,
                "mlp_bias": True,
                "use_gated_mlp": False,
                "num_register_tokens": 4,
            },
        },
        Preprocess(224, IMAGENET_MEAN, IMAGENET_STD, "bilinear", "squash"),
        303_129_600,
        196,
        any_size=True,
    ),
    "eva": NamedTower(
        "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k",
        "MIT",
        _open_clip(
            768, image_size=336, timm_model_name="eva02_large_patch14_clip_336", timm_pool="token", timm_proj=None
        ),
        Preprocess(336, CLIP_MEAN, CLIP_STD),
        304_432_832,
        576,
    ),
    "convnext": NamedTower(
        "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup",
        "MIT",
        _open_clip(
            768,
            timm_model_name="convnext_large",
            timm_pool="",
            timm_proj="mlp",
            timm_drop=0.0,
            timm_drop_path=0.1,
            image_size=320,
        ),
        Preprocess(320, CLIP_MEAN, CLIP_STD),
        199_770_816,
        100,
    ),
}
