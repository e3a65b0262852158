"""Answers, token by token: rows of a cache, each refilled from the queue when its answer is complete."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medcap.data.tokenization import ChatTokenizer
from medcap.generation.image_rows import ImageRows
from medcap.generation.kv_cache import KVCache
from medcap.generation.prefill import DecodeOne, masked_logits, prefill_tokens, run_trees, with_image_rows
from medcap.generation.prefix_tree import Prompt, Tree, chunks, pack_trees
from medcap.generation.request import Generation, Sampling
from medcap.generation.sampling import choose_tokens, draw_uniforms, is_greedy
from medcap.models.vision_language_model import VisionLanguageModel

Finish = Callable[[Prompt, Generation], None]

# New prompts come in when so large a share of the rows is free: a prefill for every single row would cost more.
REFILL_SHARE = 0.25
_NOT_FINITE = "the model's output is not finite"


class Decoder:
    """Rows that answer prompts of like length.

    Args:
        model: in eval mode, its decoder attached to ``cache``.
        tokenizer: knows the tokens that end an answer, and decodes.
        images: encodes images.
        cache: has room for ``num_rows`` x ``capacity`` tokens.
        num_rows: answers that are decoded together.
        capacity: most tokens of a prompt and its answer.
        sampling: how tokens are chosen.
        step: from ``decode_one``, perhaps compiled.
        static: keep every step at one shape, for a compiled ``step``.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        tokenizer: ChatTokenizer,
        images: ImageRows,
        cache: KVCache,
        num_rows: int,
        capacity: int,
        sampling: Sampling,
        step: DecodeOne,
        static: bool = False,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.images = images
        self.cache = cache
        self.capacity = capacity
        self.sampling = sampling
        self.step = step
        self.static = static
        self.device = model.device
        self.stop_tokens = torch.tensor(tokenizer.stop_tokens, device=self.device)
        cache.start(num_rows, capacity, self.device)
        self.rows: list[Prompt | None] = [None] * num_rows
        self.open = torch.zeros(num_rows, dtype=torch.bool, device=self.device)
        self.positions = self._integers(num_rows)  # of the next token
        self.emitted = self._integers(num_rows)  # tokens of the answer so far
        self.limits = self._integers(num_rows)
        self.answers = self._integers(num_rows, 0)
        self.uniforms = torch.zeros(num_rows, 0, device=self.device)
        self.hidden = torch.zeros(0, device=self.device)
        self.num_steps = 0
        # The host knows every row's position too: its offset and the number of steps. So no step asks the device.
        self.offsets = [0] * num_rows

    def run(self, trees: Sequence[Tree], finish: Finish) -> None:
        """Answer all prompts.

        Args:
            trees: the longer first; none with more prompts than rows.
            finish: called with each prompt and its answer as soon as that is complete.
        """
        longest = max(prompt.limit for tree in trees for prompt in tree.prompts)
        self.answers = self._integers(len(self.rows), longest)
        if not is_greedy(self.sampling):
            self.uniforms = torch.zeros(len(self.rows), longest, device=self.device)
        queue = deque(trees)
        while True:
            self._refill(queue, finish)
            if not any(self.rows):
                return
            self._choose(finish)
            if not queue and not self.static:
                self._compact()
            if any(self.rows):
                self._decode()

    def _integers(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.int64, device=self.device)

    def _free(self) -> list[int]:
        return [row for row, prompt in enumerate(self.rows) if prompt is None]

    def _refill(self, queue: deque[Tree], finish: Finish) -> None:
        while queue and len(self._free()) >= max(1.0, REFILL_SHARE * len(self.rows)):
            room = len(self._free())
            taken: list[Tree] = []
            while queue and len(queue[0].prompts) <= room:
                tree = queue.popleft()
                seen = with_image_rows(tree, self.images, (image for other in queue for image in other.images))
                if isinstance(seen, Tree):
                    taken.append(seen)
                    room -= len(seen.prompts)
                    continue
                for prompt in tree.prompts:
                    finish(prompt, Generation(text="", finish="error", error=seen))
            if not taken:
                return  # the next tree waits for more rows
            for trees in chunks(taken, prefill_tokens(self.device)):
                self._prefill(trees)

    def _prefill(self, trees: Sequence[Tree]) -> None:
        prompts = [prompt for tree in trees for prompt in tree.prompts]
        lengths = [len(prompt.tokens) for prompt in prompts]
        rows = self._free()[: len(prompts)]
        packed = pack_trees(trees, self.device)
        slots = [row * self.capacity + torch.arange(length) for row, length in zip(rows, lengths, strict=True)]
        sources = [torch.from_numpy(packed.sources(place, length)) for place, length in enumerate(lengths)]
        self.cache.fill(torch.cat(slots).to(self.device), torch.cat(sources).to(self.device))
        last = run_trees(self.model, trees, packed, torch.tensor(packed.last, device=self.device))  # [n, d]
        if not len(self.hidden):
            self.hidden = last.new_zeros(len(self.rows), last.shape[1])
        self.hidden[rows] = last
        self.positions[rows] = torch.tensor(lengths, device=self.device)
        self.limits[rows] = torch.tensor([prompt.limit for prompt in prompts], device=self.device)
        self.emitted[rows] = 0
        self.open[rows] = True
        for row, prompt in zip(rows, prompts, strict=True):
            self.rows[row] = prompt
            self.offsets[row] = len(prompt.tokens) - self.num_steps
            if not is_greedy(self.sampling):
                drawn = draw_uniforms(self.sampling.seed, prompt.key, prompt.limit)
                self.uniforms[row, : prompt.limit] = drawn.to(self.device)

    def _choose(self, finish: Finish) -> None:
        """Choose the next token of every open row, and finish those that end with it."""
        broken = ~torch.isfinite(self.hidden).all(dim=-1) & self.open
        logits = masked_logits(self.model, self.hidden, self.tokenizer.vocab_size)  # [R, V]
        uniforms = None
        if not is_greedy(self.sampling):
            uniforms = self.uniforms.gather(1, self.emitted[:, None]).squeeze(1)
        chosen = choose_tokens(logits, self.sampling, uniforms)  # [R]
        self.answers.scatter_(1, self.emitted[:, None], chosen[:, None])
        stopped = (chosen[:, None] == self.stop_tokens).any(dim=-1)
        ended = (stopped | (self.emitted + 1 >= self.limits)) & self.open
        # The only place in a step that waits for the device.
        rows = (ended | broken).nonzero().flatten().tolist()
        if rows:
            self._end(rows, broken[rows].tolist(), stopped[rows].tolist(), finish)
        self.open[rows] = False
        # A closed row stays where it is, within its slots; what it computes is never read.
        self.emitted += self.open

    def _end(self, rows: list[int], broken: list[bool], stopped: list[bool], finish: Finish) -> None:
        counts = (self.emitted[rows] + 1).tolist()
        answers = self.answers[rows].tolist()
        for row, is_broken, by_itself, count, answer in zip(rows, broken, stopped, counts, answers, strict=True):
            prompt, self.rows[row] = self.rows[row], None
            if is_broken:
                self.cache.clear(row)
                self.hidden[row] = 0
                finish(prompt, Generation(text="", finish="error", error=_NOT_FINITE))
                continue
            tokens = answer[: count - 1] if by_itself else answer[:count]
            reason = "stop" if by_itself else "length"
            finish(prompt, Generation(self.tokenizer.decode(tokens), tokens, reason))

    def _decode(self) -> None:
        chosen = self.answers.gather(1, (self.emitted - 1).clamp(min=0)[:, None]).squeeze(1)  # [R]
        furthest = max(offset for offset, prompt in zip(self.offsets, self.rows, strict=True) if prompt is not None)
        used = self.capacity if self.static else self.num_steps + furthest + 1
        # A closed row may stand further than the open ones; what it is given is never read.
        mask = self.cache.step(self.positions, used)
        self.hidden = self.step(chosen, mask, self.positions)
        self.positions += self.open
        self.num_steps += 1

    def _compact(self) -> None:
        """Drop the free rows when no prompt waits for them any more and they are the greater part."""
        kept = [row for row, prompt in enumerate(self.rows) if prompt is not None]
        if not kept or 2 * len(kept) > len(self.rows):
            return
        self.cache.keep(kept)
        self.rows = [self.rows[row] for row in kept]
        self.offsets = [self.offsets[row] for row in kept]
        for name in ("open", "positions", "emitted", "limits", "answers", "uniforms", "hidden"):
            setattr(self, name, getattr(self, name)[kept])
