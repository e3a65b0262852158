"""A tiny generator that reads regions in questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from helpers.tiny_generation import DIM, NUM_IMAGE_TOKENS, FakeProjector, FakeTower, tiny_decoder
from helpers.tokenizers import tiny_tokenizer_file
from medcap.data.added_tokens import AddedTokens
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.reader import ImageReader
from medcap.data.regions.patch_weights import RegionForm
from medcap.generation.generator import Generator
from medcap.models.region_encoders.mask_pooling import MaskPooling
from medcap.models.region_encoders.region_resampler import RegionResampler
from medcap.models.tokenizers import llama3_tokenizer
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.models.words import AddedWords

WORDS = ("<region>", "</region>")


def generator_with_regions(folder: Path, encoder: str = "pooling", **options: Any) -> Generator:
    """A generator over the images in ``folder`` whose tower sees four quarters of each.

    Args:
        folder: its reader's root.
        encoder: "pooling" or "resampler".
        options: those of the generator.
    """
    decoder = tiny_decoder()
    form = RegionForm(1 if encoder == "pooling" else 2, 2)
    added = AddedTokens(WORDS, decoder.tok_embeddings.num_embeddings, regions=form)
    tokenizer = ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(folder / "tokenizer"))), NUM_IMAGE_TOKENS, added)
    with torch.random.fork_rng():
        torch.manual_seed(12)
        words = AddedWords(WORDS, (), DIM, False)
        for parameter in words.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        part = MaskPooling(3, DIM, form) if encoder == "pooling" else RegionResampler(3, DIM, form, 8, 2)
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=2.0)
        if encoder == "pooling":
            torch.nn.init.zeros_(part.project.bias)
        tower = FakeTower()
        ids = tokenizer.image_token_id, [words, part], tokenizer.region_token_id
        model = VisionLanguageModel(tower, FakeProjector(), decoder, *ids)
    return Generator(model, tokenizer, tower.preprocess, ImageReader([folder]), progress=False, **options)
