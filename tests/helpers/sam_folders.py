"""Small random SAM and SAM 2 folders in transformers' format, as save_pretrained writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIDE = 32


def write_sam(folder: Path, side: int = SIDE, std: float = 0.2, **options: Any) -> Any:
    """Write a SAM of two layers; weights of this spread give features and masks that are not near zero."""
    from transformers import SamConfig, SamModel

    config = SamConfig(
        vision_config={
            **{"hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"image_size": side, "patch_size": 4, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32},
            **{"num_pos_feats": 8, "initializer_range": 0.02, **options},
        },
        prompt_encoder_config={
            **{"hidden_size": 16, "image_size": side, "patch_size": 4, "image_embedding_size": side // 4},
            "mask_input_channels": 4,
        },
        mask_decoder_config=_decoder(),
    )
    settings = {"size": {"longest_edge": side}, "pad_size": {"height": side, "width": side}, "do_pad": True}
    return _saved(SamModel(config), folder, settings, std)


def write_sam2(folder: Path, side: int = SIDE, std: float = 0.2) -> Any:
    """Write a SAM 2 of five blocks."""
    from transformers import Sam2Config, Sam2Model

    backbone = {
        **{"model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1},
        **{"image_size": [side, side], "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64]},
        **{"num_attention_heads_per_stage": [1, 1, 1, 1], "window_size_per_stage": [4, 2, 4, 2]},
        **{"global_attention_blocks": [3], "window_positional_embedding_background_size": [2, 2]},
    }
    config = Sam2Config(
        vision_config={
            "backbone_config": backbone,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[side // stride] * 2 for stride in (4, 8, 16)],
            "fpn_hidden_size": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": side, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config=_decoder(),
    )
    return _saved(Sam2Model(config), folder, {"size": {"height": side, "width": side}}, std)


def _decoder() -> dict[str, Any]:
    return {
        **{"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        "iou_head_hidden_dim": 16,
    }


def _saved(model: Any, folder: Path, settings: dict[str, Any], std: float) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and "positional" not in name:
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    model.eval().save_pretrained(folder)
    described = {
        **{"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 2, **settings},
        **{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(described), encoding="utf-8")
    return model
