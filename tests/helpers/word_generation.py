"""Tiny generators whose answers name boxes or masks by a word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.tiny_generation import DIM, NUM_IMAGE_TOKENS, FakeProjector, FakeTower, tiny_decoder
from helpers.tokenizers import tiny_tokenizer_file
from medcap.data.added_tokens import AddedTokens
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.reader import ImageReader
from medcap.generation.generator import Generator
from medcap.models.box_decoder import BoxDecoder
from medcap.models.component import Component
from medcap.models.mask_decoders.patch_mask_decoder import PatchMaskDecoder
from medcap.models.tokenizers import llama3_tokenizer
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.models.words import AddedWords

WORD, MASK = "<BOX>", "<SEG>"


def generator_with_words(folder: Path, word: str, make_head: Callable[[], Component], **options: Any) -> Generator:
    """A generator over a model that says a word in most answers; its tower cuts off the sides of images."""
    decoder = tiny_decoder()
    names = {"box_word": word} if word == WORD else {"mask_word": word}
    added = AddedTokens((word,), decoder.tok_embeddings.num_embeddings, **names)
    tokenizer = ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(folder / "tokenizer"))), NUM_IMAGE_TOKENS, added)
    with torch.random.fork_rng():
        torch.manual_seed(12)
        words = AddedWords((word,), (), DIM, False)
        for parameter in words.parameters():
            torch.nn.init.normal_(parameter, std=0.8)
        head = make_head()
        tower = FakeTower()
        tower.preprocess = replace(tower.preprocess, resize_mode="shortest")
        model = VisionLanguageModel(tower, FakeProjector(), decoder, tokenizer.image_token_id, [words, head])
    return Generator(model, tokenizer, tower.preprocess, ImageReader([folder]), progress=False, **options)


def generator_with_boxes(folder: Path, certainty: float = 9.0, **options: Any) -> Generator:
    """One with a box head; a certainty below 0 has it see nothing."""

    def head():
        made = BoxDecoder(DIM, 3, 4, width=8, layers=1, heads=2)
        torch.nn.init.normal_(made.look.key.weight, std=4.0)
        torch.nn.init.constant_(made.look.seen[-1].bias, certainty)
        return made

    return generator_with_words(folder, WORD, head, **options)


def generator_with_masks(folder: Path, certainty: float = 9.0, **options: Any) -> Generator:
    """One with a mask decoder; a certainty below 0 has it see nothing."""

    def decoder():
        made = PatchMaskDecoder(DIM, 3, 4, 8, 8, 1, 2, 1.0)
        torch.nn.init.normal_(made.to_pixels[-1].weight, std=9.0)
        torch.nn.init.zeros_(made.bias)
        torch.nn.init.constant_(made.look.seen[-1].bias, certainty)
        return made

    return generator_with_words(folder, MASK, decoder, **options)


def poison(part: Any, patches: Tensor) -> None:
    """Have a head or decoder give what is no number for the picture with these patch tokens, ``[T, D]``."""
    plain = part.look.forward

    def seek(hidden: Tensor, given: Tensor) -> Any:
        sought = plain(hidden, given)
        return sought._replace(seen=sought.seen * torch.nan) if torch.equal(given[0], patches) else sought

    part.look.forward = seek
