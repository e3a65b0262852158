"""The proof that an exported processor makes the run's own prompts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torchtune.data import Message

from medcap.data.added_tokens import AddedTokens
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.row_layouts import ROLES, split_images
from medcap.errors import UserError

_WORDS = "Is there a 2.5 cm nodule in the left upper lobe? (SUVmax = 12.7, naïve, 胸部)\n\nAnswer “yes” or “no”."
# Turns as their parts: IMAGE, or words.
IMAGE = None
Sample = tuple[tuple[str, tuple[str | None, ...]], ...]
SAMPLES: tuple[Sample, ...] = (
    (("user", (IMAGE, _WORDS)),),
    (("user", (IMAGE,)),),
    (("user", (_WORDS,)),),
    (("user", (_WORDS, IMAGE)),),
    (("system", ("You read images.",)), ("user", (IMAGE, IMAGE, "  What changed?  "))),
    (("user", (IMAGE, "What is shown?")), ("assistant", (" A lung. ",)), ("user", (IMAGE, _WORDS))),
)


def _samples(added: AddedTokens | None) -> Sequence[Sample]:
    """Return the conversations to compare; words are met at a text's ends, within it and beside each other."""
    if added is None:
        return SAMPLES
    parts = f"{added.words[0]}Is there {added.words[-1]}a{''.join(added.words)} {added.words[-1]}"
    return (*SAMPLES, (("user", (IMAGE, parts)), ("assistant", (parts,)), ("user", (parts,))))


def check_prompts(folder: Path, tokenizer: ChatTokenizer, image_token: int, image_size: int) -> None:
    """Compare the ids of sample conversations.

    Args:
        folder: holds the exported processor and tokenizer.
        tokenizer: the run's.
        image_token: the id that stands for an image in the export.
        image_size: image size of the tower, in pixels.

    Raises:
        UserError: if one differs: then transformers would ask other questions than the run was trained on.
    """
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    # Nothing is run, so that a sample may be longer than the language model's positions.
    processor.tokenizer.model_max_length = sys.maxsize
    picture = Image.new("RGB", (image_size + 20, image_size))
    for number, sample in enumerate(_samples(tokenizer.added), 1):
        own = tokenizer.prompt([_message(role, parts) for role, parts in sample]).tokens
        own = [image_token if token == tokenizer.image_token_id else token for token in own]
        turns = [{"role": role, "content": [_part(part, picture) for part in parts]} for role, parts in sample]
        made = processor.apply_chat_template(turns, tokenize=True, add_generation_prompt=True, return_dict=True)
        theirs = made["input_ids"][0]
        if list(theirs) != own:
            position = next(
                (at for at, (a, b) in enumerate(zip(theirs, own, strict=False)) if a != b), min(len(theirs), len(own))
            )
            raise UserError(
                f"--format hf: the exported tokenizer writes sample conversation {number} with other ids than the run's"
                f" own ({len(theirs)} and {len(own)} ids, the first difference at {position}), so nothing was exported"
            )


def _message(role: str, parts: tuple[str | None, ...]) -> Message:
    """Return the turn of a training record: a tag for each picture, on a line of its own."""
    written = "\n".join(part or "<image>" for part in parts)
    return Message(role=ROLES[role], content=split_images(written), masked=role != "assistant")


def _part(part: str | None, picture: Image.Image) -> dict[str, Any]:
    return {"type": "image", "image": picture} if part is IMAGE else {"type": "text", "text": part}
