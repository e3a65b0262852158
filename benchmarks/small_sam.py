"""A small SAM with random weights, as a folder in transformers' format."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import SamConfig, SamModel

from medcap.files import write_json


def write_small_sam(folder: Path, side: int = 64) -> None:
    """Write a SAM whose encoder has two layers of width 96 over cells of 4 x 4 pixels, and a decoder of width 64.

    Args:
        folder: to write.
        side: side of its pictures in pixels.
    """
    patch, width = 4, 64
    config = SamConfig(
        # Their defaults are 1e-10, and half the width: for weights that are loaded.
        initializer_range=0.02,
        vision_config={
            "hidden_size": 96,
            "output_channels": width,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "mlp_dim": 192,
            "image_size": side,
            "patch_size": patch,
            "window_size": 0,
            "global_attn_indexes": [0, 1],
            "num_pos_feats": width // 2,
            "scale": 1.0,
            "initializer_range": 0.02,
        },
        prompt_encoder_config={
            "hidden_size": width,
            "image_size": side,
            "patch_size": patch,
            "image_embedding_size": side // patch,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": width,
        },
    )
    torch.manual_seed(0)
    model = SamModel(config)
    model.save_pretrained(folder)
    described = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 2,
        "size": {"longest_edge": side},
        "do_pad": True,
        "pad_size": {"height": side, "width": side},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    write_json(folder / "preprocessor_config.json", described)
