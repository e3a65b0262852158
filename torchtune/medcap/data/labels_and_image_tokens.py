"""Marked token ids of a chat -> its tokens, with placeholders for images and regions, and the labels to learn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from medcap.data.chat_marks import ANSWER_MARK, END_MARK, IMAGE_MARK, MARK_IDS, REGION_MARK, WORDS_MARK
from medcap.data.regions.region import Region
from medcap.modules.label_loss import IGNORE_INDEX


@dataclass
class TokenizedChat:
    """A sample for training.

    Attributes:
        tokens: the ids; every image is a run of placeholder ids.
        labels: list as long as tokens; ``labels[i]`` is ``tokens[i]`` where that token is to be learnt, else -100.
        images: the content of the image parts, in the order of the runs.
        image_lengths: placeholder ids of each image.
        regions: the content of the region parts, in order; each is a run of its own placeholder ids.
    """

    tokens: list[int]
    labels: list[int]
    images: list[Any] = field(default_factory=list)
    image_lengths: list[int] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)


@dataclass
class TokenizedPrompt:
    """What the model reads before it answers; the attributes are those of :class:`TokenizedChat`."""

    tokens: list[int]
    images: list[Any] = field(default_factory=list)
    image_lengths: list[int] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)


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


@dataclass(frozen=True)
class SpecialIds:
    """Ids of a tokenizer that decide what is learnt.

    Attributes:
        image: placeholder of an image token.
        beginning: begins a text; None where there is none.
        stop: end an answer.
        region: all placeholders of a region.
    """

    image: int
    beginning: int | None
    stop: Collection[int]
    region: Sequence[int] = ()


def expand(
    ids: Sequence[int], masked: Sequence[bool], rules: LabelRules, special: SpecialIds, image_lengths: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Take the marks out of the ids of a chat, put in the placeholders of its images, and label what is learnt.

    Args:
        ids: ids of the whole chat, with the marks of ``MARK_IDS``.
        masked: whether each of them belongs to a turn that is not learnt.
        rules: which tokens are learnt.
        special: ids of the tokenizer.
        image_lengths: placeholders of each image.

    Returns:
        The tokens, and as many labels: the token itself where it is learnt, -100 elsewhere.
    """
    tokens: list[int] = []
    labels: list[int] = []
    lengths = iter(image_lengths)
    in_answer = behind_words = ended = False
    for token, is_masked in zip(ids, masked, strict=True):
        if is_masked:
            in_answer = behind_words = ended = False
        if token == MARK_IDS[ANSWER_MARK]:
            in_answer = True
        elif token == MARK_IDS[END_MARK]:
            behind_words = in_answer
        elif token == MARK_IDS[WORDS_MARK]:
            pass
        elif token == MARK_IDS[IMAGE_MARK]:
            length = next(lengths)
            tokens += [special.image] * length
            labels += [IGNORE_INDEX] * length
        elif token == MARK_IDS[REGION_MARK]:
            tokens += special.region
            labels += [IGNORE_INDEX] * len(special.region)
        else:
            after_image = bool(tokens) and tokens[-1] == special.image
            learnt = in_answer or (not is_masked and (rules.train_on_input or rules.train_on_header))
            learnt = learnt and not ended and not (rules.mask_after_image and after_image)
            # [Contract] a token that begins the text has nothing before it that could predict it.
            learnt = learnt and token != special.beginning
            labels.append(token if learnt else IGNORE_INDEX)
            tokens.append(token)
            # Generation stops here, so the text that the template writes afterwards is never generated.
            if behind_words and token in special.stop:
                ended, in_answer = not rules.train_on_input, False
    return tokens, labels
