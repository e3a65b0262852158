"""Answers and scores on each side of the comparison, over the same weights and questions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchtune.data import Message
from training_sides import make_sides
from training_workloads import ASSISTANT, BOS, BREAK, END, EOT, IMAGE, PAD, START, USER, Example, Preset
from transformers import LogitsProcessorList

from helpers.tiny_generation import plain_answer, plain_score
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.reader import ImageReader
from medcap.data.row_layouts import PLACEHOLDER
from medcap.generation.decoding.prefill import prefill_tokens
from medcap.generation.generator import Generator
from medcap.generation.prompt import question_request
from medcap.generation.request import Request, Sampling
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.modules.frozen_linear import check_device, check_layers, quantise_layer, quantised_bytes

Words = tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Attributes:
        image: a file.
        words: ids of the question.
        options: ids of the answers to choose from; none where an answer is to be written.
    """

    image: Path
    words: Words
    options: tuple[Words, ...] = ()


@dataclass(frozen=True)
class Answers:
    """What a side said, and how long it took.

    Attributes:
        tokens: ids, equally many for each question.
        first_seconds: until all rows had their first token: images, prefill.
        rest_seconds: for all their further tokens.
    """

    tokens: list[list[int]]
    first_seconds: float
    rest_seconds: float


class Side(Protocol):
    """What a user of one system calls."""

    def answer(self, questions: Sequence[Question], new_tokens: int) -> Answers:
        """Greedy answers of exactly ``new_tokens`` tokens, all in one batch."""
        ...

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """Log-probability of each option and the end of the turn, summed over its tokens."""
        ...


class WordIds:
    """A tokenizer whose text is ids: ``"12 345"``; any other word is padding. Nothing that can be said ends an answer.

    Args:
        vocab_size: of the language model.
    """

    eos_id = EOT
    max_seq_len: int | None = None

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.stop_tokens = [vocab_size]

    def encode(self, text: str, **options: Any) -> list[int]:
        """Ids of a text."""
        return [IMAGE] if text == PLACEHOLDER else [int(word) if word.isdigit() else PAD for word in text.split()]

    def decode(self, token_ids: list[int], **options: Any) -> str:
        """Text of ids."""
        return text_of(token_ids)

    def tokenize_messages(self, messages: list[Message], **options: Any) -> tuple[list[int], list[bool]]:
        """Llama 3's form, as ``Example.tokens`` has it."""
        ids, masked = [BOS], [True]
        for message in messages:
            speaker = ASSISTANT if message.role == "assistant" else USER
            turn = [START, speaker, END, BREAK, *self.encode(message.text_content), EOT]
            ids += turn
            masked += [message.masked] * len(turn)
        return ids, masked


class Ours:
    """``Generator``.

    Args:
        model: ours.
        preset: its shapes.
        batch_size: answers that are decoded together.
        images: folder of the images.
        compile: as ``Generator`` takes it.
        cuda_graphs: as ``Generator`` takes it.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        preset: Preset,
        batch_size: int,
        images: Path,
        compile: bool | None,
        cuda_graphs: bool = False,
    ) -> None:
        tokenizer = ChatTokenizer(WordIds(preset.vocab_size), preset.image_tokens)
        reader = ImageReader([images])
        self.generator = Generator(
            model,
            tokenizer,
            model.tower.preprocess,
            reader,
            batch_size,
            compile=compile,
            cuda_graphs=cuda_graphs,
            progress=False,
        )
        self._hidden = self.generator._step.hidden
        self._step_began: list[float] = []
        self.generator._step.hidden = self._timed_step

    def answer(self, questions: Sequence[Question], new_tokens: int) -> Answers:
        """One call; the rest begins with the first step of decoding."""
        self._step_began.clear()
        began = time.perf_counter()
        answers = self.generator.generate([_request(question) for question in questions], Sampling(new_tokens))
        ended = time.perf_counter()
        for answer in answers:
            if len(answer.tokens) != new_tokens:  # it would count as work that was not done
                raise SystemExit(f"an answer has {len(answer.tokens)} tokens, not {new_tokens}: {answer.error}")
        tokens = [answer.tokens for answer in answers]
        return Answers(tokens, self._step_began[0] - began, ended - self._step_began[0])

    def _timed_step(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        if not self._step_began:
            self._step_began.append(now(self.generator.model.device))
        return self._hidden(tokens, mask, positions)

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """One call."""
        options = [[text_of(option) for option in question.options] for question in questions]
        found = self.generator.score([_request(question) for question in questions], options)
        for scores in found:
            if scores.error:
                raise SystemExit(f"a question was not scored: {scores.error}")
        return [scores.sums for scores in found]


class Plain(Ours):
    """``helpers/tiny_generation.py`` over the same modules: one request at a time, no cache."""

    def answer(self, questions: Sequence[Question], new_tokens: int) -> Answers:
        """All tokens computed again for every next one, so that the first is as dear as the others."""
        began = time.perf_counter()
        tokens = [plain_answer(self.generator, _request(question), new_tokens) for question in questions]
        first = (time.perf_counter() - began) / new_tokens
        return Answers(tokens, first, first * (new_tokens - 1))

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """One forward pass an option, the image encoded for each."""
        return [
            [
                plain_score(self.generator, _request(question), text_of(option), end_of_turn=True)[0]
                for option in question.options
            ]
            for question in questions
        ]


class Transformers:
    """``LlavaForConditionalGeneration``; it is given the pixels, their preparation is not measured.

    Args:
        model: theirs, all of it in the dtype of the language model.
        preset: its shapes.
        pixels: ``[3, H, W]`` of each image.
        static_cache: ask ``generate`` for its static cache, with which it compiles the step on a GPU.
        few_logits: score with ``logits_to_keep``, for the last positions alone.
    """

    def __init__(
        self,
        model: Any,
        preset: Preset,
        pixels: dict[Path, Tensor],
        static_cache: bool = False,
        few_logits: bool = False,
    ) -> None:
        self.model, self.preset, self.pixels = model, preset, pixels
        self.static_cache, self.few_logits = static_cache, few_logits
        model.generation_config.eos_token_id = None  # no token ends an answer

    def answer(self, questions: Sequence[Question], new_tokens: int) -> Answers:
        """``generate`` over prompts padded on the left; the rest is timed from the first logits to the last."""
        calls = 0
        marks: list[float] = []

        def mark(tokens: Tensor, logits: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls in (1, new_tokens):
                marks.append(now(self.model.device))
            return logits

        began = time.perf_counter()
        prompts = [torch.tensor(self._prompt(question)) for question in questions]
        tokens = pad_sequence(prompts, batch_first=True, padding_value=PAD, padding_side="left")  # [B, S]
        tokens = tokens.to(self.model.device)
        output = self.model.generate(
            input_ids=tokens,
            attention_mask=(tokens != PAD).long(),
            pixel_values=self._pixels(questions),
            max_new_tokens=new_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList([mark]),
            cache_implementation="static" if self.static_cache else None,
        )
        return Answers(output[:, tokens.shape[1] :].tolist(), marks[0] - began, marks[1] - marks[0])

    @torch.inference_mode()
    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """Question and option as a row, padded on the right; passes of at most as many tokens as ours."""
        rows = [(question, option) for question in questions for option in question.options]
        longest = max(len(self._prompt(question)) + len(option) + 1 for question, option in rows)
        size = max(1, prefill_tokens(self.model.device) // longest)
        sums = iter([total for start in range(0, len(rows), size) for total in self._sums(rows[start : start + size])])
        return [[next(sums) for _ in question.options] for question in questions]

    def _sums(self, rows: Sequence[tuple[Question, Words]]) -> list[float]:
        prompts = [self._prompt(question) for question, _ in rows]
        answers = [[*option, EOT] for _, option in rows]
        texts = [torch.tensor(prompt + answer) for prompt, answer in zip(prompts, answers, strict=True)]
        tokens = pad_sequence(texts, batch_first=True, padding_value=PAD).to(self.model.device)  # [B, S]
        first = min(map(len, prompts)) - 1 if self.few_logits else 0
        logits = self.model(
            input_ids=tokens,
            attention_mask=(tokens != PAD).long(),
            pixel_values=self._pixels([question for question, _ in rows]),
            use_cache=False,
            logits_to_keep=tokens.shape[1] - first,
        ).logits  # [B, S - first, V]
        row = [number for number, answer in enumerate(answers) for _ in answer]
        position = [
            len(prompt) - 1 - first + step
            for prompt, answer in zip(prompts, answers, strict=True)
            for step in range(len(answer))
        ]
        wanted = torch.tensor([token for answer in answers for token in answer], device=logits.device)
        found = logits[row, position].float().log_softmax(-1).gather(1, wanted[:, None]).squeeze(1)  # [n]
        return [part.sum().item() for part in found.double().cpu().split([len(answer) for answer in answers])]

    def _prompt(self, question: Question) -> list[int]:
        return Example(0, question.words, ()).tokens(self.preset.image_tokens)[0][:-1]

    def _pixels(self, questions: Sequence[Question]) -> Tensor:
        stacked = torch.stack([self.pixels[question.image] for question in questions])
        return stacked.to(self.model.device, self.model.dtype)


@dataclass(frozen=True)
class Models:
    """The models that are wanted, with the same weights; ours perhaps quantised.

    Attributes:
        ours: a ``VisionLanguageModel``, or None.
        theirs: a ``LlavaForConditionalGeneration``, or None.
        token_bytes: of the weights that one decoded token reads: layers, final norm and output head; of ours where it
            is there.
        device: where they are.
    """

    ours: VisionLanguageModel | None
    theirs: Any
    token_bytes: int
    device: torch.device

    def made_ours(self) -> VisionLanguageModel:
        """Return ours, which a side of it needs."""
        assert self.ours is not None, "it is made for its sides"
        return self.ours


@torch.no_grad()
def make_models(
    preset: Preset, device: torch.device, dtype: torch.dtype, llm_weights: str, ours: bool = True, theirs: bool = True
) -> Models:
    """Build them with random weights made on the device.

    Args:
        preset: the shapes.
        device: where.
        dtype: of the language models, and of all of theirs.
        llm_weights: of our decoder's layers.
        ours: build ours.
        theirs: build transformers' one.
    """
    check_device(llm_weights, device)
    sides = make_sides(preset, device, dtype, ["ours"] * ours + ["transformers"] * theirs)
    our_model, their_model = (sides[name].model.eval() if name in sides else None for name in ("ours", "transformers"))
    token_bytes = 0
    # The image token is never said: on our side by rule, on theirs because a logit of 0 is not the highest.
    if their_model is not None:
        their_model.to(dtype)
        their_model.lm_head.weight[IMAGE] = 0
        language = their_model.model.language_model
        read = [*language.layers.parameters(), *language.norm.parameters(), their_model.lm_head.weight]
        token_bytes = sum(weight.nbytes for weight in read)
    if our_model is not None:
        decoder = our_model.decoder
        decoder.output.weight[IMAGE] = 0
        check_layers(decoder.layers, llm_weights)
        token_bytes = sum(quantised_bytes(layer, dtype, llm_weights) for layer in decoder.layers)
        token_bytes += decoder.norm.scale.nbytes + decoder.output.weight.nbytes
        for layer in decoder.layers:
            quantise_layer(layer, llm_weights)
    return Models(our_model, their_model, token_bytes, device)


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def text_of(words: Sequence[int]) -> str:
    """Return the text that ``WordIds`` turns into these ids."""
    return " ".join(map(str, words))


def _request(question: Question) -> Request:
    return question_request(str(question.image), text_of(question.words))
