"""Folders of LLaVA's own format with random weights."""

import json

import torch
from safetensors.torch import load_file, save_file

from helpers.llm_checkpoints import random_decoder, tiny_llm, write_hugging_face_llm
from helpers.run_folders import LLAMA3
from helpers.vision_checkpoints import write_hugging_face_folder


def llava_original(folder, kind, projector, tower_inside, llm=None, **changes):
    """LLaVA's own layout: a Llama's names, the projector and perhaps the tower below ``model.``."""
    decoder = random_decoder(llm or tiny_llm(LLAMA3))
    source = write_hugging_face_llm(folder / "source", decoder)
    clip = write_hugging_face_folder(folder / "clip", "clip", "vision")
    tensors = load_file(source / "model.safetensors")
    tensors |= {f"model.mm_projector.{name}": tensor for name, tensor in projector.items()}
    if tower_inside:
        state = {f"model.vision_tower.vision_tower.vision_model.{name}": t for name, t in clip.state_dict().items()}
        tensors |= {name: (tensor + 1 if tensor.is_floating_point() else tensor) for name, tensor in state.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config |= {
        "model_type": "llava_llama",
        "mm_vision_tower": str(folder / "clip"),
        "mm_projector_type": kind,
        "mm_vision_select_layer": -2,
        **changes,
    }
    (source / "config.json").write_text(json.dumps(config))
    return source, clip.eval()


def random_tensors(**shapes):
    torch.manual_seed(1)
    return {name.replace("_", "."): torch.randn(shape) for name, shape in shapes.items()}


MLP = random_tensors(**{"0_weight": (32, 16), "0_bias": (32,), "2_weight": (32, 32), "2_bias": (32,)})
LINEAR = random_tensors(weight=(32, 16), bias=(32,))
