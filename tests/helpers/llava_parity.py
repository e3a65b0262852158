"""The same conversations for a run and for its export in transformers, and what both compute of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchtune.data import Message
from transformers import AutoProcessor

from helpers.run_folders import picture
from medcap.generation.generator import Generator
from medcap.generation.prompt import user_message

Turns = list[tuple[str, Image.Image | None, str]]

# Sides that leave an even margin to crop: transformers rounds an odd one another way.
FIRST, SECOND, THIRD = picture(48, 32), picture(36, 36, seed=1), picture(40, 60, seed=2)
CONVERSATIONS = {
    "a question": [("user", FIRST, "Is there a circle?")],
    "another picture": [("user", THIRD, "What is shown?")],
    "a caption": [("user", SECOND, "")],
    "words only": [("user", None, "Describe a normal chest.")],
    "two pictures": [("user", FIRST, "What is shown?"), ("assistant", None, "A circle."), ("user", SECOND, "And now?")],
}


def ours(turns: Turns) -> list[Message]:
    """As a run takes them."""
    return [
        user_message(image, text) if role == "user" else Message(role=role, content=text) for role, image, text in turns
    ]


def theirs(turns: Turns) -> list[dict[str, Any]]:
    """As transformers' processors take them."""
    chat = []
    for role, image, text in turns:
        parts = [{"type": "image", "image": image}] if image is not None else []
        chat.append({"role": role, "content": parts + ([{"type": "text", "text": text}] if text else [])})
    return chat


def inputs(folder: Path, turns: Turns, **options: Any) -> Any:
    """What the processor of an export makes of them."""
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", **options}
    return processor.apply_chat_template(theirs(turns), add_generation_prompt=True, **options)


def our_logits(generator: Generator, turns: Turns) -> Tensor:
    """``[1, S, V]`` of a run."""
    model = generator.model
    prompt = generator.tokenizer.prompt(ours(turns))
    tokens = torch.tensor([prompt.tokens])
    rows = image_positions = None
    if prompt.images:
        transform = model.tower.preprocess.transform()
        rows = model.encode_images(torch.stack([transform(image) for image in prompt.images]))
        image_positions = (tokens.flatten() == model.image_token_id).nonzero().flatten()
    positions = torch.arange(tokens.shape[1])[None]
    mask = torch.ones(1, tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    return model.unembed(model.hidden(model.embed(tokens, rows, image_positions), mask, positions))
