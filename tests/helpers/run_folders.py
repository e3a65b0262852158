"""Run folders as training writes them, with random weights and in no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

from helpers.llm_checkpoints import random_decoder, tiny_llm, write_hugging_face_llm
from helpers.vision_checkpoints import write_hugging_face_folder, write_open_clip_folder
from medcap.checkpoints.atomic import atomic_folder, point_latest, step_folder
from medcap.checkpoints.vision import plan_vision
from medcap.checkpoints.vision_files import save_components

MLP = {"_component_": "medcap.models.mlp"}
POOLED_MLP = {"_component_": "medcap.models.pooled_mlp", "num_image_tokens": 3}
# No scaling: transformers objects to one beyond the positions of so short a model.
LLAMA3 = "torchtune.models.llama3.llama3"


def write_run(
    folder: Path,
    tower: str = "siglip",
    projector: dict[str, Any] | None = None,
    llm: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write ``folder/run``, its language model ``folder/llm`` and its base tower ``folder/<tower>``.

    Args:
        folder: made if it is not there.
        tower: clip, siglip, biomedclip (small) or tiny.
        projector: its configuration.
        llm: the ``llm`` key.
        dtype: dtype of the language model's files.

    Returns:
        The run's folder.
    """
    llm = llm or tiny_llm(LLAMA3)
    write_hugging_face_llm(folder / "llm", random_decoder(llm).to(dtype))
    vision: Any = str(folder / tower)
    if tower == "tiny":
        vision = {"name": "tiny", "image_size": 16, "stride": 8, "width": 32, "depth": 1, "heads": 2}
    elif tower == "biomedclip":
        write_open_clip_folder(folder / tower)
    else:
        write_hugging_face_folder(folder / tower, tower)
    torch.manual_seed(3)
    plan = plan_vision(vision, None, projector or MLP, llm["embed_dim"])
    parts = plan.build()
    run = folder / "run"
    step = step_folder(run / "checkpoint", 2)
    remembered = {"component": llm["_component_"], "dim": llm["embed_dim"], "weights": "bf16", "fingerprint": "ab" * 32}
    with atomic_folder(step) as temporary:
        save_components(temporary, [part.state() for part in parts], remembered)
    point_latest(step)
    config = {
        "llm": llm,
        "llm_weights": "bf16",
        "tokenizer": {
            "_component_": "medcap.models.llama3_tokenizer",
            "path": str(folder / "llm/original/tokenizer.model"),
        },
        "checkpointer": {"checkpoint_dir": str(folder / "llm"), "checkpoint_files": None, "output_dir": None},
        "vision": vision,
        "vision_checkpoint": None,
        "projector": plan.projector_config,
        "device": "cpu",
        "dtype": "auto",
        "output_dir": str(run),
        "trainable": ["vision", "projector"],
        "dataset": {"_component_": "medcap.datasets.chat_dataset", "source": str(folder / "rows.json")},
        "epochs": 3,
        "optimizer": {"_component_": "torch.optim.AdamW", "lr": 2e-5},
    }
    OmegaConf.save(OmegaConf.create(config), run / "config.yaml")
    return run


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise in colour."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))
