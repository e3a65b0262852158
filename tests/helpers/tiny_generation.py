"""A small seeing model of every decoder family, and generation as plainly as it can be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchtune.models.gemma import gemma
from torchtune.models.gemma2 import gemma2
from torchtune.models.llama3 import llama3
from torchtune.models.phi3 import phi3
from torchtune.models.qwen2 import qwen2
from torchtune.modules import TransformerDecoder

from helpers.plain_component import PlainComponent
from helpers.tokenizers import tiny_tokenizer_file, tiny_vocab_size
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.reader import ImageReader
from medcap.generation.generator import Generator
from medcap.generation.prompt import caption_request, question_request
from medcap.generation.request import Request
from medcap.models.llm_lora import LanguageModelAdapters
from medcap.models.preprocess import HALF, Preprocess
from medcap.models.tokenizers import llama3_tokenizer
from medcap.models.vision_language_model import VisionLanguageModel

NUM_IMAGE_TOKENS = 3
DIM = 32
FAMILIES = ("llama3", "gemma", "gemma2", "phi3", "qwen2")


class FakeTower(PlainComponent):
    """Four quarters of the picture, each as its mean colour; counts the pictures it saw."""

    name = "vision"

    def __init__(self, tiles: int = 0) -> None:
        super().__init__()
        self.preprocess = Preprocess(8, HALF, HALF, resize_mode="squash", tiles=tiles)
        self.dropout = nn.Dropout(0.5)
        self.frozen_norm = nn.Dropout(0.5).eval()
        self.num_seen = 0

    def encode_patches(self, images: Tensor) -> Tensor:
        self.num_seen += len(images)
        quarters = nn.functional.adaptive_avg_pool2d(images, 2)  # [N, 3, 2, 2]
        return self.frozen_norm(self.dropout(quarters.flatten(2).transpose(1, 2)))  # [N, 4, 3]


class FakeProjector(PlainComponent):
    """One linear map from all quarters to the image tokens."""

    name = "projector"
    takes = "patches"
    num_image_tokens = NUM_IMAGE_TOKENS

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, NUM_IMAGE_TOKENS * DIM)

    def forward(self, patches: Tensor) -> Tensor:
        return self.linear(patches.flatten(1)).unflatten(1, (NUM_IMAGE_TOKENS, DIM))  # [N, K, d]


def tiny_decoder(family: str = "llama3", max_seq_len: int = 256, extra_rows: int = 0) -> TransformerDecoder:
    """Two layers with fixed random weights.

    Args:
        family: one of ``FAMILIES``.
        max_seq_len: longest sequence of the decoder.
        extra_rows: embedding rows after the tokenizer's vocabulary.
    """
    shared = {
        "vocab_size": tiny_vocab_size() + extra_rows,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "embed_dim": DIM,
        "max_seq_len": max_seq_len,
        "intermediate_dim": 48,
    }
    headed = {**shared, "head_dim": 8}
    build = {
        "llama3": lambda: llama3(**shared),
        "gemma": lambda: gemma(**headed),
        "gemma2": lambda: gemma2(**headed, sliding_window_size=128),
        "phi3": lambda: phi3(**shared),
        "qwen2": lambda: qwen2(**shared),
    }[family]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        decoder = build()
        for name, parameter in decoder.named_parameters():
            if parameter.ndim == 2:
                # Weak embeddings: where the head is tied to them, a token would else predict itself for ever.
                nn.init.normal_(parameter, std=0.05 if "tok_embeddings" in name else 0.3)
    return decoder


def tiny_generator(
    folder: Path,
    family: str = "llama3",
    decoder_max_seq_len: int = 256,
    extra_rows: int = 0,
    tiles: int = 0,
    **options: object,
) -> Generator:
    """A generator over the images in ``folder``; ``options`` are its own."""
    tower = FakeTower(tiles)
    words = llama3_tokenizer(str(tiny_tokenizer_file(folder / "tokenizer")))
    tokenizer = ChatTokenizer(words, NUM_IMAGE_TOKENS, tiles=tower.preprocess.tiling)
    decoder = tiny_decoder(family, decoder_max_seq_len, extra_rows)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = VisionLanguageModel(tower, FakeProjector(), decoder, tokenizer.image_token_id)
    return Generator(model, tokenizer, model.tower.preprocess, ImageReader([folder]), progress=False, **options)


def add_adapters(generator: Generator) -> None:
    """Put adapters with fixed random weights on the language model, which change its answers."""
    shapes = {
        f"layers.{name}": (part.out_features, part.in_features)
        for name, part in generator.model.decoder.layers.named_modules()
        if isinstance(part, nn.Linear)
    }
    torch.manual_seed(0)
    adapters = LanguageModelAdapters(shapes, 2, 8.0, 0.0, "all-linear", False)
    for parameter in adapters.parameters():
        nn.init.normal_(parameter, std=0.3)
    generator.model.further.append(adapters)
    adapters.attach(generator.model)


def break_first_image(generator: Generator) -> None:
    """Have the first image of every batch become rows that are not a number."""
    plain = generator.model.projector.linear.forward

    def broken(patches: Tensor) -> Tensor:
        rows = plain(patches).clone()
        rows[0] = torch.nan
        return rows

    generator.model.projector.linear.forward = broken


def write_images(folder: Path, count: int) -> list[str]:
    """Noise pictures ``0.png``, ``1.png``, ..."""
    random = np.random.default_rng(3)
    for index in range(count):
        Image.fromarray(random.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return [f"{index}.png" for index in range(count)]


def mixed_requests(images: list[str]) -> list[Request]:
    """Captions, questions of several lengths, and text alone."""
    words = ["left lung", "a small red circle", "the chest", "no clear square in the image of the right lung"]
    requests = [caption_request(image) for image in images]
    requests += [question_request(image, f"Is there {word}?") for image in images for word in words[: 1 + len(image)]]
    requests += [question_request(None, f"What shows {word * repeat}?") for repeat, word in enumerate(words, start=1)]
    return requests


def plain_answer(generator: Generator, request: Request, max_new_tokens: int) -> list[int]:
    """Greedy answer to one request: the whole text is computed again for every token."""
    model, tokenizer = generator.model, generator.tokenizer
    prompt = tokenizer.prompt(request.messages, request.answer_prefix)
    pictures = [generator.reader.open(generator.reader.resolve(str(image))) for image in prompt.images]
    model.tower.eval()
    answer: list[int] = []
    with torch.no_grad():
        rows = None
        if pictures:
            shown = [generator.preprocess.transform()(image) for image in pictures]
            pixels = torch.cat([one if one.ndim == 4 else one[None] for one in shown])
            rows = model.encode_images(pixels.to(model.device))
        while len(answer) < max_new_tokens:
            tokens = torch.tensor([prompt.tokens + answer], device=model.device)
            image_positions = (tokens.flatten() == tokenizer.image_token_id).nonzero().flatten()
            causal = torch.ones(1, tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=model.device).tril()
            positions = torch.arange(tokens.shape[1], device=model.device)[None]
            hidden = model.hidden(
                model.embed(tokens, rows, image_positions if len(image_positions) else None), causal, positions
            )
            logits = model.unembed(hidden)[0, -1, : tokenizer.vocab_size]
            logits[tokenizer.image_token_id : tokenizer.image_token_id + 1] = -torch.inf
            token = int(logits.argmax())
            if token in tokenizer.stop_tokens:
                break
            answer.append(token)
    return answer


def plain_score(generator: Generator, request: Request, candidate: str, end_of_turn: bool) -> tuple[float, int]:
    """Log-probability of one candidate, summed, and its number of tokens: one forward pass of the whole text."""
    model, tokenizer = generator.model, generator.tokenizer
    given = tokenizer.prompt(request.messages, request.answer_prefix)
    start = len(given.tokens) - len(tokenizer.answer(request.answer_prefix, end_of_turn=False))
    ids = given.tokens[:start] + tokenizer.answer(request.answer_prefix + candidate, end_of_turn)
    pictures = [generator.reader.open(generator.reader.resolve(str(image))) for image in given.images]
    model.tower.eval()
    with torch.no_grad():
        rows = None
        if pictures:
            shown = [generator.preprocess.transform()(image) for image in pictures]
            pixels = torch.cat([one if one.ndim == 4 else one[None] for one in shown])
            rows = model.encode_images(pixels.to(model.device))
        tokens = torch.tensor([ids], device=model.device)
        image_positions = (tokens.flatten() == tokenizer.image_token_id).nonzero().flatten()
        causal = torch.ones(1, len(ids), len(ids), dtype=torch.bool, device=model.device).tril()
        positions = torch.arange(len(ids), device=model.device)[None]
        embeddings = model.embed(tokens, rows, image_positions if len(image_positions) else None)
        logits = model.unembed(model.hidden(embeddings, causal, positions))[0]
        logits[:, tokenizer.vocab_size :] = -torch.inf
        logits[:, tokenizer.image_token_id : tokenizer.image_token_id + 1] = -torch.inf
        first = len(given.tokens)
        while ids[:first] != given.tokens[:first]:
            first -= 1
        scored = logits.log_softmax(-1)[range(first - 1, len(ids) - 1), ids[first:]]
    return float(scored.double().sum()), len(ids) - first
