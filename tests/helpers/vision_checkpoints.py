"""Small random-weight vision checkpoints in the exact formats of open_clip, Hugging Face and medcap."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

_TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
_HUGGING_FACE_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
HUGGING_FACE_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_PREPROCESSORS = {
    "clip": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "siglip": {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 32, "width": 32},
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
}

# A trunk with BiomedCLIP's structure and few parameters: 160 pixels, 100 patches of width 64.
TIMM_VISION = {
    "timm_model_name": "test_vit",
    "timm_model_pretrained": False,
    "timm_pool": "",
    "timm_proj": "linear",
    "image_size": 160,
}
# open_clip's own vision transformer: 32 pixels, 16 patches of width 16.
NATIVE_VISION = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 32}


def write_open_clip_folder(
    folder: Path,
    vision: Mapping[str, Any] = TIMM_VISION,
    quick_gelu: bool = False,
    as_pickle: bool = False,
) -> dict[str, Tensor]:
    """Write ``open_clip_config.json`` and the weights of a whole model.

    Args:
        folder: made if it is not there; its name may be given to open_clip as ``local-dir:``.
        vision: open_clip's ``vision_cfg``.
        quick_gelu: quick gelu of the model.
        as_pickle: write ``open_clip_pytorch_model.bin`` instead of safetensors.

    Returns:
        The whole state dict, the text half included.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    custom = "timm_model_name" in vision
    model = {"embed_dim": 12, "vision_cfg": dict(vision), "text_cfg": dict(_TEXT), "quick_gelu": quick_gelu}
    if custom:
        model["custom_text"] = True
    torch.manual_seed(0)
    built = (CustomTextCLIP if custom else CLIP)(12, dict(vision), dict(_TEXT), quick_gelu=quick_gelu)
    state = _shaken(built.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    config = {"model_cfg": model, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if as_pickle:
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    else:
        save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    return state


def write_hugging_face_folder(
    folder: Path,
    family: str,
    part: str = "whole",
    sharded: bool = False,
    bare_names: bool = False,
    preprocessor: Mapping[str, Any] | None = None,
) -> Any:
    """Write ``config.json`` and ``model.safetensors`` as ``save_pretrained`` does.

    Args:
        folder: made if it is not there.
        family: "clip" or "siglip".
        part: "whole", "vision", or for clip "vision_with_projection".
        sharded: two shards and an index.
        bare_names: a vision half without ``vision_model.`` before its names, as transformers 5 writes it; otherwise
            with it, as transformers 4 did.
        preprocessor: content of ``preprocessor_config.json``; None for what the family's models have.

    Returns:
        The transformers model.
    """
    import transformers

    prefix = {"clip": "CLIP", "siglip": "Siglip"}[family]
    vision = dict(_HUGGING_FACE_VISION, **({"projection_dim": 12} if family == "clip" else {}))
    torch.manual_seed(0)
    if part == "whole":
        config = getattr(transformers, f"{prefix}Config")(
            text_config=dict(HUGGING_FACE_TEXT),
            vision_config=vision,
            **({"projection_dim": 12} if family == "clip" else {}),
        )
        model = getattr(transformers, f"{prefix}Model")(config)
    else:
        config = getattr(transformers, f"{prefix}VisionConfig")(**vision)
        suffix = "VisionModelWithProjection" if part == "vision_with_projection" else "VisionModel"
        model = getattr(transformers, f"{prefix}{suffix}")(config)
    model.load_state_dict(_shaken(model.state_dict()))
    model.eval()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if part == "vision" and not bare_names:
        state = {f"vision_model.{name}": tensor for name, tensor in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    values = {**config.to_dict(), "architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(values, default=str))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor or _PREPROCESSORS[family]))
    if sharded:
        _write_shards(folder, state)
    else:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return model


def write_meta_model(
    path: Path, visual: Mapping[str, Tensor], llm_dim: int, num_image_tokens: int, pooled_dim: int = 12
) -> dict[str, dict[str, Tensor]]:
    """Write medcap 2024's ``{'visual': ..., 'projector': ...}`` in bf16.

    Args:
        path: the ``.pt`` file.
        visual: state of the vision half, as of open_clip's ``model.visual``.
        llm_dim: width of the language model's embeddings, and of the hidden layer.
        num_image_tokens: K.
        pooled_dim: width of the pooled vector.

    Returns:
        What was written.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "0.weight": (llm_dim, pooled_dim),
        "0.bias": (llm_dim,),
        "2.weight": (num_image_tokens * llm_dim, llm_dim),
        "2.bias": (num_image_tokens * llm_dim,),
    }
    content = {
        "visual": {name: tensor.to(torch.bfloat16) for name, tensor in visual.items()},
        "projector": {
            name: torch.randn(shape, generator=generator).to(torch.bfloat16) for name, shape in shapes.items()
        },
    }
    torch.save(content, path)
    return content


def _shaken(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with noise on every number, so that zeros and ones of an initialisation hide no mistake."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: (tensor + 0.05 * torch.randn(tensor.shape, generator=generator)).contiguous()
        if tensor.is_floating_point()
        else tensor
        for name, tensor in state.items()
    }


def _write_shards(folder: Path, state: Mapping[str, Tensor]) -> None:
    names = sorted(state)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in halves.items() for name in part}
    total = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
