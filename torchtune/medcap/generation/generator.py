"""Requests -> answers: planned into batches, prefilled once, decoded together over a KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcap.data.images import ImageReader
from medcap.data.tokenization import ChatTokenizer
from medcap.errors import UserError
from medcap.generation.image_rows import ImageRows
from medcap.generation.kv_cache import KVCache, attached
from medcap.generation.progress import Progress
from medcap.generation.request import Generation, Request, Sampling
from medcap.generation.sampling import choose_tokens, draw_uniforms, is_greedy
from medcap.models.towers.base import Preprocess
from medcap.models.vision_language_model import VisionLanguageModel

# Sorting by length within so many batches saves nearly all padding, keeps the questions of one image close
# together, and finishes requests roughly in their order.
WINDOW_BATCHES = 16


@dataclass(frozen=True)
class Prompt:
    """A request, ready to run.

    Attributes:
        index: its place in the list of requests.
        key: its id, or its place where it has none.
        tokens: ``[n]`` int32.
        images: of its runs of image tokens, in order.
        limit: most tokens of its answer.
    """

    index: int
    key: str
    tokens: np.ndarray
    images: list[Any]
    limit: int

    @property
    def capacity(self) -> int:
        """Tokens of the prompt and its longest answer."""
        return len(self.tokens) + self.limit


class Generator:
    """Answers requests in batches.

    Requests of different lengths, with and without images, run together. An image is encoded once for all its
    neighbouring requests. In float32 an answer does not depend on the batch; in lower precisions the device's
    matrix kernels may round differently for another batch size, so two tokens that are almost equally likely may
    change places.

    Args:
        model: the vision-language model; it is left as it was found, so training may go on with it.
        tokenizer: with the chat template of the training.
        preprocess: the tower's.
        reader: opens the images that requests name by path.
        batch_size: rows that are decoded together.
        max_seq_len: most tokens of a prompt and its answer; the decoder's own limit holds in any case.
        max_batch_tokens: most tokens of all prompts and answers of a batch, for prompts of very different lengths;
            None bounds a batch by ``batch_size`` only.
        progress: show the progress of calls with more than one request on stderr.

    Raises:
        UserError: if ``batch_size``, ``max_seq_len`` or ``max_batch_tokens`` is below 1.
        ValueError: if tokenizer and model disagree on the tokens of an image.

    Example:
        >>> generator = Generator(model, tokenizer, tower.preprocess, ImageReader(["./images"]))
        >>> generator.generate([caption_request("chest.png")], Sampling(max_new_tokens=64))[0].text
        'Chest X-ray shows clear lungs.'
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        tokenizer: ChatTokenizer,
        preprocess: Preprocess,
        reader: ImageReader,
        batch_size: int = 16,
        max_seq_len: int | None = None,
        max_batch_tokens: int | None = None,
        progress: bool = True,
    ) -> None:
        sizes = {"batch_size": batch_size, "dataset_max_seq_len": max_seq_len, "max_batch_tokens": max_batch_tokens}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: it must be at least 1")
        # [Contract] a tokenizer made for another projector would lay rows over words.
        for name in ("num_image_tokens", "image_token_id"):
            ours, theirs = getattr(tokenizer, name), getattr(model, name)
            if ours != theirs:
                raise ValueError(f"{name} is {ours} in the tokenizer and {theirs} in the model")
        self.model = model
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.reader = reader
        self.batch_size = batch_size
        self.max_batch_tokens = max_batch_tokens
        self.progress = progress
        self.decoder_limit = _decoder_limit(model)
        self.max_seq_len = min(self.decoder_limit, max_seq_len or self.decoder_limit)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_result: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer all requests.

        Args:
            requests: any number.
            sampling: how tokens are chosen, and how many.
            on_result: called with a request's place in the list and its answer as soon as that is complete, in the
                order of completion.

        Returns:
            The answers in the order of the requests. A request whose image cannot be read, or for which the model
            computes no finite numbers, has one with ``finish="error"``.

        Raises:
            UserError: if a prompt leaves no room for an answer (before anything is computed), or the device's
                memory is too small for a batch.
        """
        prompts = [self._prepare(index, request, sampling) for index, request in enumerate(requests)]
        results: dict[int, Generation] = {}
        if not prompts:
            return []
        batches = plan_batches(prompts, self.batch_size, self.max_batch_tokens)
        cache = KVCache(max(len(batch) * _capacity(batch) for batch in batches))
        progress = Progress(len(prompts), self.progress and len(prompts) > 1)
        images = ImageRows(self.model, self.preprocess, self.reader, self.batch_size)

        def finish(prompt: Prompt, generation: Generation) -> None:
            results[prompt.index] = generation
            progress.add(len(generation.tokens))
            if on_result is not None:
                on_result(prompt.index, generation)

        # Not inference_mode: a tensor that a module keeps for later could then never be trained with.
        with torch.no_grad(), eval_mode(self.model), attached(self.model.decoder, cache), images, progress:
            images.prefetch(_images(batches[0]))
            for batch, following in zip(batches, [*batches[1:], []], strict=True):
                try:
                    images.encode(_images(batch))
                    images.prefetch(_images(following))
                    readable = self._drop_unreadable(batch, images, finish)
                    if readable:
                        self._answer(readable, images, cache, sampling, finish)
                except torch.OutOfMemoryError as error:
                    raise UserError(
                        f"the device's memory is too small for {len(batch)} rows of {_capacity(batch)} tokens:"
                        f" lower batch_size={self.batch_size} or max_new_tokens={sampling.max_new_tokens}"
                    ) from error
        return [results[index] for index in range(len(prompts))]

    def _prepare(self, index: int, request: Request, sampling: Sampling) -> Prompt:
        name = f"request {request.id or index}"
        try:
            prompt = self.tokenizer.prompt(request.messages)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        room = self.max_seq_len - len(prompt.tokens)
        if room < 1:
            raise UserError(
                f"{name}: its prompt has {len(prompt.tokens)} tokens, which leaves no room for an answer within"
                f" {self.max_seq_len}; raise dataset_max_seq_len (the model's own limit is"
                f" {self.decoder_limit}) or shorten the prompt"
            )
        tokens = np.asarray(prompt.tokens, dtype=np.int32)
        return Prompt(index, request.id or str(index), tokens, prompt.images, min(room, sampling.max_new_tokens))

    def _drop_unreadable(
        self, batch: list[Prompt], images: ImageRows, finish: Callable[[Prompt, Generation], None]
    ) -> list[Prompt]:
        readable = []
        for prompt in batch:
            failure = next(filter(None, map(images.failure, prompt.images)), "")
            if failure:
                finish(prompt, Generation(text="", finish="error", error=failure))
            else:
                readable.append(prompt)
        return readable

    def _answer(
        self,
        batch: list[Prompt],
        images: ImageRows,
        cache: KVCache,
        sampling: Sampling,
        finish: Callable[[Prompt, Generation], None],
    ) -> None:
        device = self.model.device
        capacity, longest = _capacity(batch), max(len(prompt.tokens) for prompt in batch)
        num_steps = max(prompt.limit for prompt in batch)
        cache.start(len(batch), capacity, device)
        hidden = self._prefill(batch, images, cache, longest)  # [R, d]
        positions = torch.tensor([len(prompt.tokens) for prompt in batch], device=device)  # [R], of the next token
        limits = torch.tensor([prompt.limit for prompt in batch], device=device)
        stop_tokens = torch.tensor(self.tokenizer.stop_tokens, device=device)
        uniforms = None
        if not is_greedy(sampling):
            drawn = [draw_uniforms(sampling.seed, prompt.key, num_steps) for prompt in batch]
            uniforms = torch.stack(drawn, dim=1).to(device)  # [steps, R]
        answers = torch.zeros(num_steps, len(batch), dtype=torch.int64, device=device)
        done = ~torch.isfinite(hidden).all(dim=-1)  # [R]
        broken = done.nonzero().flatten().tolist()
        for row in broken:
            finish(batch[row], Generation(text="", finish="error", error="the model's output is not finite"))
        num_open = len(batch) - len(broken)
        for step in range(num_steps):
            if not num_open:
                return
            logits = self._logits(hidden)  # [R, V]
            chosen = choose_tokens(logits, sampling, None if uniforms is None else uniforms[step])  # [R]
            answers[step] = chosen
            stopped = (chosen[:, None] == stop_tokens).any(dim=-1)
            ended = (stopped | (limits <= step + 1)) & ~done
            # The only place in a step that waits for the device.
            rows = ended.nonzero().flatten().tolist()
            if rows:
                answered = answers[: step + 1, rows].T.tolist()
                for row, tokens, by_itself in zip(rows, answered, stopped[rows].tolist(), strict=True):
                    finish(batch[row], self._generation(tokens, by_itself))
                num_open -= len(rows)
                done |= ended
            if num_open:
                now = positions[:, None]  # [R, 1]
                mask = cache.place(now, min(longest + step + 1, capacity))
                hidden = self.model.hidden(self.model.embed(chosen[:, None], None, None), mask, now)[:, 0]
                positions = positions + ~done  # a finished row stays where it is, within its slots

    def _prefill(self, batch: list[Prompt], images: ImageRows, cache: KVCache, longest: int) -> Tensor:
        """Run all prompts; returns the hidden state of every row's last token, ``[R, d]``."""
        device = self.model.device
        padded = np.zeros((len(batch), longest), dtype=np.int64)
        for row, prompt in enumerate(batch):
            padded[row, : len(prompt.tokens)] = prompt.tokens
        contents = _images(batch)
        image_rows = images.stack(contents) if contents else None  # [N, K, d]
        image_positions = torch.from_numpy(np.flatnonzero(padded == self.tokenizer.image_token_id)).to(device)
        embeddings = self.model.embed(torch.from_numpy(padded).to(device), image_rows, image_positions)  # [R, S, d]
        positions = torch.arange(longest, device=device).expand(len(batch), longest)
        hidden = self.model.hidden(embeddings, cache.place(positions, longest), positions)
        last = torch.tensor([len(prompt.tokens) - 1 for prompt in batch], device=device)
        return hidden[torch.arange(len(batch), device=device), last]

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self.model.unembed(hidden)  # [R, V]
        logits[:, self.tokenizer.vocab_size :] = -torch.inf
        logits[:, self.tokenizer.image_token_id : self.tokenizer.image_token_id + 1] = -torch.inf
        return logits

    def _generation(self, tokens: list[int], stopped: bool) -> Generation:
        tokens = tokens[:-1] if stopped else tokens
        return Generation(self.tokenizer.decode(tokens), tokens, "stop" if stopped else "length")


def plan_batches(prompts: Sequence[Prompt], batch_size: int, max_batch_tokens: int | None = None) -> list[list[Prompt]]:
    """Put prompts of like length together.

    Args:
        prompts: in the order wanted.
        batch_size: most prompts of a batch.
        max_batch_tokens: most tokens of a batch, padding and answers included; a single longer prompt is a batch.

    Returns:
        The batches; within a window the longest come first, so that memory runs out early or not at all.
    """
    batches: list[list[Prompt]] = []
    window = batch_size * WINDOW_BATCHES
    for start in range(0, len(prompts), window):
        batch: list[Prompt] = []
        for prompt in sorted(prompts[start : start + window], key=lambda prompt: -len(prompt.tokens)):
            tokens = (len(batch) + 1) * _capacity([*batch, prompt])
            full = len(batch) == batch_size or (max_batch_tokens is not None and tokens > max_batch_tokens)
            if batch and full:
                batches.append(batch)
                batch = []
            batch.append(prompt)
        batches.append(batch)
    return batches


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put every part into eval mode, and each back into its own mode afterwards.

    Args:
        model: a part of it may be in eval mode already, as frozen normalisation layers are.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _capacity(batch: Sequence[Prompt]) -> int:
    return max(prompt.capacity for prompt in batch)


def _images(batch: Sequence[Prompt]) -> list[Any]:
    return [image for prompt in batch for image in prompt.images]


def _decoder_limit(model: VisionLanguageModel) -> int:
    # torchtune's sliding-window layers place a decoded query at the window's start, so they hold up to there only.
    windows = [getattr(module, "sliding_window_size", None) for module in model.decoder.modules()]
    return min([model.decoder.max_seq_len, *(window for window in windows if window)])
