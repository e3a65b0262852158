"""Decode answers token by token: prompts enter and leave rows of a cache while the others continue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.outputs import NOTHING, Outputs
from medcap.errors import UserError
from medcap.generation.decoding.answer_experts import AnswerExperts
from medcap.generation.decoding.answer_words import AnswerWords
from medcap.generation.decoding.captured_steps import CapturedSteps
from medcap.generation.decoding.finite import not_finite
from medcap.generation.decoding.host_copy import copy_together
from medcap.generation.decoding.image_rows import ImageRows
from medcap.generation.decoding.kv_cache import KVCache
from medcap.generation.decoding.prefill import mask_logits, prefill_tokens, run_trees, with_image_rows
from medcap.generation.decoding.prefix_tree import Prompt, Tree, chunks, pack_trees
from medcap.generation.decoding.sampling import choose_among_likely, choose_tokens, draw_uniforms, is_greedy
from medcap.generation.decoding.step import DecodingStep
from medcap.generation.request import Generation, Sampling
from medcap.models.vision_language_model import VisionLanguageModel

Finish = Callable[[Prompt, Generation], None]
OnToken = Callable[[Prompt, int], None]
Choose = Callable[[Tensor, Sampling, Tensor], tuple[Tensor, Tensor | None]]

# Refill once this share of the rows is free: a prefill for every single row would cost more.
REFILL_SHARE = 0.25
# State of every row; it grows, shrinks and moves with the row.
_STATE = ("open", "positions", "emitted", "chosen", "uniforms", "hidden")


class Decoder:
    """Rows that answer prompts: :meth:`admit` adds a prompt, and :meth:`step` decodes one token for all of them.

    Args:
        model: model in eval mode, its decoder attached to ``cache``.
        tokenizer: knows the tokens that end an answer, and decodes.
        cache: has room for ``max_rows`` x ``capacity`` tokens.
        max_rows: most answers that are decoded together.
        capacity: most tokens of a prompt and its answer.
        most_new_tokens: most tokens of an answer.
        step: the model's part in a step; if it is compiled, every step keeps its shape.
        words: gives boxes and masks where answers name them; None for a model that gives none.
        experts: counts the experts of answers; None where nobody asks for it.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        tokenizer: ChatTokenizer,
        cache: KVCache,
        max_rows: int,
        capacity: int,
        most_new_tokens: int,
        step: DecodingStep,
        words: AnswerWords | None = None,
        experts: AnswerExperts | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.cache = cache
        self.max_rows = max_rows
        self.capacity = capacity
        self.most_new_tokens = most_new_tokens
        self.step_model = step
        self.static = step.static
        self._captured = CapturedSteps(step, cache) if step.captured else None
        self.words = words
        self.experts = experts
        self.device = model.device
        self.stop_tokens = frozenset(tokenizer.stop_tokens)
        cache.start(0, capacity, self.device)
        self.rows: list[Prompt | None] = []
        self.open = torch.zeros(0, dtype=torch.bool, device=self.device)
        self.positions = self._integers(0)  # of the next token
        self.emitted = self._integers(0)  # tokens of the answer so far
        self.chosen = self._integers(0)  # the last token of each answer
        self.uniforms = torch.zeros(0, most_new_tokens, device=self.device)
        self.hidden = torch.zeros(0, model.decoder.tok_embeddings.embedding_dim, dtype=model.dtype, device=self.device)
        self.num_steps = 0
        # The host knows every row's position too: its offset and the number of steps. So no step asks the device.
        self.offsets: list[int] = []
        self.answers: list[list[int]] = []
        if self.static:
            self._grow(max_rows)

    @property
    def num_open(self) -> int:
        """Answers that are being decoded."""
        return sum(prompt is not None for prompt in self.rows)

    @property
    def room(self) -> int:
        """Prompts that can come in now."""
        return self.max_rows - self.num_open

    def admit(self, trees: Sequence[Tree]) -> None:
        """Compute prompts, each into a free row; the next :meth:`step` returns their first tokens.

        Args:
            trees: trees with their image rows, the longer first; together no more than ``room`` prompts.
        """
        for part in chunks(trees, prefill_tokens(self.device)):
            self._prefill(part)

    def step(self, finish: Finish, on_token: OnToken | None = None, shrink: bool = False) -> None:
        """Choose the next token of every open row, end the rows whose answer is complete, and compute on.

        Args:
            finish: called with each prompt and its answer as soon as that is complete.
            on_token: called with each open row's prompt and token, unless the token ends the answer.
            shrink: drop free rows where they are the greater part, because no prompt waits for them.
        """
        self._choose(finish, on_token)
        if shrink and not self.static:
            self._shrink()
        if any(self.rows):
            self._decode()

    def compile_sizes(self) -> None:
        """Compile and capture the step for every number of slots that it may look at, before anybody waits."""
        if not self.static:
            return
        # The layers' memory is taken at the first step; taking it is not to be compiled.
        DecodingStep(self.model, compiled=False).hidden(self.chosen, self.cache.step(self.positions, 1), self.positions)
        for used in self.step_model.sizes(self.capacity):
            self._run(used)

    def drop(self, prompt: Prompt) -> None:
        """Give up an answer and free its row."""
        row = self.rows.index(prompt)
        self.rows[row] = None
        self.open[row] = False
        self._forget(prompt)

    def _forget(self, prompt: Prompt) -> None:
        if self.words is not None:
            self.words.drop(prompt)
        if self.experts is not None:
            self.experts.drop(prompt)

    def _integers(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.int64, device=self.device)

    def _free(self) -> list[int]:
        return [row for row, prompt in enumerate(self.rows) if prompt is None]

    def _grow(self, count: int) -> None:
        self.rows += [None] * count
        self.offsets += [0] * count
        self.answers += [[] for _ in range(count)]
        self.cache.grow(len(self.rows))
        for name in _STATE:
            state = getattr(self, name)
            setattr(self, name, torch.cat([state, state.new_zeros(count, *state.shape[1:])]))

    def _prefill(self, trees: Sequence[Tree]) -> None:
        prompts = [prompt for tree in trees for prompt in tree.prompts]
        lengths = [len(prompt.tokens) for prompt in prompts]
        missing = len(prompts) - len(self._free())
        if missing > 0:
            self._grow(missing)
        rows = self._free()[: len(prompts)]
        packed = pack_trees(trees)
        slots = [row * self.capacity + np.arange(length) for row, length in zip(rows, lengths, strict=True)]
        sources = [packed.sources(number, length) for number, length in enumerate(lengths)]
        into, taken, where, used = copy_together(
            [np.concatenate(slots), np.concatenate(sources), rows, lengths], self.device
        )
        self.cache.fill(into, taken)
        last = run_trees(self.model, trees, packed, packed.last)  # [n, d]
        self.hidden.index_copy_(0, where, last.to(self.hidden.dtype))
        self.positions.index_copy_(0, where, used)
        self.emitted.index_fill_(0, where, 0)
        self.open.index_fill_(0, where, True)
        if self.words is not None:
            self.words.begin(trees)
        if self.experts is not None:
            self.experts.begin(prompts, packed.last)
        for row, prompt in zip(rows, prompts, strict=True):
            self.rows[row], self.answers[row] = prompt, []
            self.offsets[row] = len(prompt.tokens) - self.num_steps
            if not is_greedy(prompt.sampling):
                drawn = draw_uniforms(prompt.sampling.seed, prompt.key, prompt.limit)
                self.uniforms[row, : prompt.limit] = drawn.to(self.device)

    def _choose(self, finish: Finish, on_token: OnToken | None) -> None:
        logits = mask_logits(self.model, self.step_model.logits(self.hidden), self.tokenizer.vocab_size)  # [R, V]
        self.chosen, short = self._by_each_rule(logits, choose_among_likely)  # [R]
        tokens, broken, is_short = self._read(logits, short)
        if any(one and prompt is not None for one, prompt in zip(is_short, self.rows, strict=True)):
            self.chosen, _ = self._by_each_rule(logits, _choose_among_all)
            tokens, broken, _ = self._read(logits, None)
        failures = {} if self.words is None else self.words.look(self.rows, tokens, self.hidden)
        ended = []
        for row, (prompt, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if prompt is None:
                continue
            self.answers[row].append(token)
            if broken[row]:
                failures[row] = not_finite("model")
            by_itself = token in self.stop_tokens
            if on_token is not None and not (by_itself or broken[row]):
                on_token(prompt, token if self.words is None else self.words.written(prompt, token))
            if by_itself or row in failures or len(self.answers[row]) >= prompt.limit:
                ended.append(row)
        for row in ended:
            self._end(row, failures.get(row, ""), finish)
        if ended:
            self.open[ended] = False
        # A closed row stays where it is, within its slots; what it computes is never read.
        self.emitted += self.open

    def _read(self, logits: Tensor, short: Tensor | None) -> list[list[int]]:
        """Return the choices, which are broken and which are short, ``[3, R]``: the only wait of a choice."""
        # A forbidden token has minus infinity and is never chosen; one NaN makes the choice of its row meaningless.
        broken = ~torch.isfinite(logits.gather(1, self.chosen[:, None]).squeeze(1))
        short = torch.zeros_like(broken) if short is None else short
        return torch.stack([self.chosen, broken.long(), short.long()]).tolist()

    def _by_each_rule(self, logits: Tensor, choose: Choose) -> tuple[Tensor, Tensor | None]:
        """Rows with one rule are chosen for together: ``[R, V]`` -> what ``choose`` returns for all rows."""
        rules: dict[tuple[object, ...], tuple[Sampling, list[int]]] = {}
        for row, prompt in enumerate(self.rows):
            if prompt is not None:
                sampling = prompt.sampling
                rule = (sampling.temperature, sampling.top_k, sampling.top_p)
                rules.setdefault(rule, (sampling, []))[1].append(row)
        sampled = any(not is_greedy(sampling) for sampling, _ in rules.values())
        uniforms = self.uniforms.gather(1, self.emitted[:, None]).squeeze(1) if sampled else self.emitted  # [R]
        if len(rules) == 1:
            ((sampling, _),) = rules.values()
            return choose(logits, sampling, uniforms)
        chosen, short = self._integers(len(self.rows)), torch.zeros_like(self.open)
        for sampling, rows in rules.values():
            chosen[rows], some = choose(logits[rows], sampling, uniforms[rows])
            if some is not None:
                short[rows] = some
        return chosen, short

    def _end(self, row: int, failure: str, finish: Finish) -> None:
        prompt, self.rows[row] = self.rows[row], None
        assert prompt is not None, "an open row has one"
        tokens, reason, outputs = self.answers[row], "length", NOTHING
        if tokens[-1] in self.stop_tokens:
            tokens, reason = tokens[:-1], "stop"
        if not failure:
            try:
                tokens, outputs = self._with_words(prompt, tokens)
            except UserError as error:
                failure = str(error)
        if failure:
            self.cache.clear(row)
            self.hidden[row] = 0
            self._forget(prompt)
            finish(prompt, Generation(text="", finish="error", error=failure))
            return
        if self.experts is not None:
            outputs = replace(outputs, experts=self.experts.end(prompt))
        finish(prompt, Generation(self.tokenizer.decode(tokens), tokens, reason, outputs=outputs))

    def _with_words(self, prompt: Prompt, tokens: list[int]) -> tuple[list[int], Outputs]:
        if self.words is None:
            return tokens, NOTHING
        return self.words.end(prompt, tokens, self.tokenizer.decode)

    def _decode(self) -> None:
        furthest = max(offset for offset, prompt in zip(self.offsets, self.rows, strict=True) if prompt is not None)
        used = self.step_model.slots_read(self.num_steps + furthest + 1, self.capacity)
        self.hidden = self._run(used)
        if self.experts is not None:
            self.experts.look(self.rows)
        self.positions += self.open
        self.num_steps += 1

    def _run(self, used: int) -> Tensor:
        if self._captured is not None:
            return self._captured.hidden(self.chosen, self.positions, used)
        # A closed row may be further than the open ones; its values are never read.
        return self.step_model.hidden(self.chosen, self.cache.step(self.positions, used), self.positions)

    def _shrink(self) -> None:
        kept = [row for row, prompt in enumerate(self.rows) if prompt is not None]
        if 2 * len(kept) > len(self.rows):
            return
        self.cache.keep(kept)
        self.rows = [self.rows[row] for row in kept]
        self.offsets = [self.offsets[row] for row in kept]
        self.answers = [self.answers[row] for row in kept]
        for name in _STATE:
            setattr(self, name, getattr(self, name)[kept])


def _choose_among_all(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> tuple[Tensor, None]:
    return choose_tokens(logits, sampling, uniforms), None


def answer_all(
    decoder: Decoder, trees: Sequence[Tree], images: ImageRows, finish: Finish, on_token: OnToken | None = None
) -> None:
    """Answer all prompts, refilling rows as they become free.

    Args:
        decoder: decoder without open rows.
        trees: the longer first; none with more prompts than the decoder has rows.
        images: encodes images.
        finish: callback as in :meth:`Decoder.step`.
        on_token: callback as in :meth:`Decoder.step`.
    """
    queue = deque(trees)
    while queue or decoder.num_open:
        if decoder.room >= max(1.0, REFILL_SHARE * decoder.max_rows):
            take_in(decoder, queue, images, finish)
        if decoder.num_open:
            decoder.step(finish, on_token, shrink=not queue)


def take_in(decoder: Decoder, queue: deque[Tree], images: ImageRows, finish: Finish) -> None:
    """Admit trees from the front of a queue until the next one finds no room.

    Args:
        decoder: takes them.
        queue: loses what was admitted, and what has an unreadable image or region.
        images: encodes images.
        finish: called with prompts whose image or region cannot be read.
    """
    room = decoder.room
    taken: list[Tree] = []
    while queue and len(queue[0].prompts) <= room:
        tree = queue.popleft()
        seen, failed = with_image_rows(tree, images, (image for other in queue for image in other.images))
        if seen is not None:
            taken.append(seen)
            room -= len(seen.prompts)
        for prompt, reason in failed.items():
            finish(prompt, Generation(text="", finish="error", error=reason))
    decoder.admit(taken)
