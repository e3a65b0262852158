"""What a chat becomes as token ids, and which of them are learnt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TokenizedChat:
    """A sample for training.

    Attributes:
        tokens: the ids; every image is a run of placeholder ids.
        labels: list as long as tokens; ``labels[i]`` is ``tokens[i]`` where that token is to be learnt, else -100.
        images: the content of the image parts, in the order of the runs.
        image_lengths: placeholder ids of each image.
    """

    tokens: list[int]
    labels: list[int]
    images: list[Any] = field(default_factory=list)
    image_lengths: list[int] = field(default_factory=list)


@dataclass
class TokenizedPrompt:
    """What the model reads before it answers: ``tokens``, the ``images`` of its runs, and the length of each run."""

    tokens: list[int]
    images: list[Any] = field(default_factory=list)
    image_lengths: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class LabelRules:
    """Which tokens are learnt.

    Attributes:
        train_on_input: also the user's and the system's words and headers.
        train_on_header: also the assistant's header (as medcap 2024 and torchtune do).
        mask_after_image: never the token right after an image token (as medcap 2024 does).
    """

    train_on_input: bool = False
    train_on_header: bool = False
    mask_after_image: bool = False
