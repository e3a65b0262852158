"""Model sizes and made-up samples of real lengths, for measuring training."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

# Special tokens, at the same small ids for every vocabulary; words are drawn from the ids above.
BOS, START, END, BREAK, EOT, USER, ASSISTANT, PAD, IMAGE = range(1, 10)
FIRST_WORD = 10
QUESTIONS_AN_IMAGE = 7

# Llama 3 tokens of the notes of 77 radiographs of the Figure 1 and Actualmed COVID-19 chest X-ray data sets
# (github.com/agchung): a few words in most, a case history in some.
NOTE_LENGTHS = (
    *(
        [2]
        + [3] * 3
        + [4] * 10
        + [5, 7, 9, 9, 11]
        + [12] * 15
        + [15] * 10
        + [18, 21]
        + [22] * 15
        + [25, 25, 32, 34, 34]
    ),
    *(65, 65, 70, 76, 102, 104, 110, 129, 130, 133, 139),
)
# Biomedical figure captions, as tokens: of BIOMEDICA's 6 M, 434 M tokens or 55 % stand behind a caption's first 77,
# 2.2 % behind its first 512 (Sun et al. 2025, https://arxiv.org/abs/2510.03978): 131 on average, and about log-normal
# with this spread, which puts 50 % and 2.7 % there. Cut at 512.
CAPTION_MEAN, CAPTION_SPREAD, CAPTION_LIMIT = 131, 0.8, 512
# PathVQA: 9.5 words a question and 2.5 words an answer on average (He et al. 2020, https://arxiv.org/abs/2003.10286),
# here as tokens.
QUESTION_LENGTHS = (5, 16)
ANSWER_LENGTHS = (1, 4)


@dataclass(frozen=True)
class Preset:
    """Shapes of a model.

    Attributes:
        layers, dim, heads, kv_heads, intermediate_dim, vocab_size: of the Llama.
        tower_dim, tower_layers, tower_heads: of a CLIP vision transformer whose feed-forward part is 4 times as wide.
        image_size, patch_size: in pixels.
        batch_size: samples of a padded batch.
        row_length: tokens of a packed row.
        rows: packed rows that a step's samples fill; None for the samples of one padded batch, whatever they fill.
    """

    layers: int
    dim: int
    heads: int
    kv_heads: int
    intermediate_dim: int
    vocab_size: int
    tower_dim: int
    tower_layers: int
    tower_heads: int
    image_size: int = 224
    patch_size: int = 16
    batch_size: int = 8
    row_length: int = 1024
    rows: int | None = None

    @property
    def image_tokens(self) -> int:
        """K, tokens of an image."""
        return (self.image_size // self.patch_size) ** 2


PRESETS = {
    "tiny": Preset(2, 64, 4, 2, 224, 512, 64, 2, 2, image_size=64, row_length=256),
    "small": Preset(8, 512, 8, 4, 1792, 32_000, 384, 12, 6),
    "llama3_2_1b": Preset(16, 2048, 32, 8, 8192, 128_256, 768, 12, 12, batch_size=16, row_length=4096, rows=2),
    "llama3_1_8b": Preset(32, 4096, 32, 8, 14_336, 128_256, 768, 12, 12, batch_size=8, row_length=4096, rows=1),
}


@dataclass(frozen=True)
class Example:
    """A question about an image and its answer, as word ids; a caption has no question."""

    image: int
    question: tuple[int, ...]
    answer: tuple[int, ...]

    def tokens(self, image_tokens: int) -> tuple[list[int], list[int]]:
        """Return the chat in Llama 3's form, and the labels: -100 except on the answer and its end."""
        prompt = [BOS, START, USER, END, BREAK, *[IMAGE] * image_tokens, *self.question]
        prompt += [EOT, START, ASSISTANT, END, BREAK]
        answer = [*self.answer, EOT]
        return prompt + answer, [-100] * len(prompt) + answer


def captions(preset: Preset, seed: int) -> list[Example]:
    """Return a batch of figure captions of mixed length."""
    source = random.Random(seed)
    centre = math.log(CAPTION_MEAN) - CAPTION_SPREAD**2 / 2
    limit = min(CAPTION_LIMIT, preset.row_length - preset.image_tokens - 16)
    lengths = [
        min(max(round(source.lognormvariate(centre, CAPTION_SPREAD)), 1), limit) for _ in range(preset.batch_size)
    ]
    return [Example(image, (), _words(source, preset, length)) for image, length in enumerate(lengths)]


def notes(preset: Preset, seed: int) -> list[Example]:
    """Return a batch of radiographs with their notes, most of them short."""
    source = random.Random(seed)
    lengths = [source.choice(NOTE_LENGTHS) for _ in range(preset.batch_size)]
    return [Example(image, (), _words(source, preset, length)) for image, length in enumerate(lengths)]


def questions(preset: Preset, seed: int) -> list[Example]:
    """Half as many images as a batch has samples, seven questions each, in random order; the same whatever the seed."""
    source = random.Random(0)
    examples = [
        Example(
            image,
            _words(source, preset, source.randint(*QUESTION_LENGTHS)),
            _words(source, preset, source.randint(*ANSWER_LENGTHS)),
        )
        for image in range(preset.batch_size // 2)
        for _ in range(QUESTIONS_AN_IMAGE)
    ]
    source.shuffle(examples)
    return examples


WORKLOADS = {"captions": captions, "notes": notes, "questions": questions}


def _words(source: random.Random, preset: Preset, count: int) -> tuple[int, ...]:
    return tuple(source.randrange(FIRST_WORD, preset.vocab_size) for _ in range(count))
