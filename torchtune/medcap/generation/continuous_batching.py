"""Requests that come at any time, answered together: each joins the batch that is being decoded."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from medcap.data.question_regions import QuestionRegion
from medcap.data.regions.patch_weights import region_weights
from medcap.data.regions.region import MaskFile
from medcap.errors import RegionError, UserError
from medcap.generation.decoding.answer_experts import answering
from medcap.generation.decoding.decoder import Decoder, take_in
from medcap.generation.decoding.image_rows import ImageRows
from medcap.generation.decoding.kv_cache import KVCache, attached
from medcap.generation.decoding.prefix_tree import Prompt, plan_trees
from medcap.generation.generator import Generator
from medcap.generation.request import Generation, PreparedImage, Request, Sampling
from medcap.threads import use_device

# After this many failures in a row the server should be started again.
MAX_FAILURES = 3
CLOSING = "the model is being shut down"
OUT_OF_MEMORY = "the device's memory is too small for the requests that came together"
FAILED = "the model failed while it answered"

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class RequestHandle:
    """A request on its way.

    Attributes:
        prompt: the request, ready to run.
        index: index of its generator.
        on_token: called with each token.
        on_end: called once, with the answer.
    """

    prompt: Prompt
    index: int
    on_token: Callable[[int], None]
    on_end: Callable[[Generation], None]


class LiveGenerator:
    """Answers requests from many threads with one model, in one batch.

    A request joins as soon as a row is free, and leaves when its answer is complete; none waits for a batch to end.
    Its tokens are those of ``Generator.generate`` for that request alone, within the limits that :class:`Generator`
    names. Several runs that share one language model are decoded in the same batch; only their images are encoded
    apart. A request that does without adapters, or has other experts, waits for those that run, and they for it.

    Args:
        generators: one for each run; all of them over one decoder object.
        max_rows: most answers that are decoded together.
        capacity: most tokens of a prompt and its answer; memory is taken for ``max_rows`` of them.

    Raises:
        ValueError: if the generators do not share their decoder and their image token.
    """

    def __init__(self, generators: Sequence[Generator], max_rows: int = 16, capacity: int = 2048) -> None:
        first = generators[0]
        for generator in generators:
            same_tokens = generator.model.image_token_id == first.model.image_token_id
            if generator.model.decoder is not first.model.decoder or not same_tokens:
                raise ValueError("runs that are answered in one batch must share their language model")
        self.generators = list(generators)
        self.max_rows = max_rows
        self.capacity = min(capacity, first.max_seq_len)
        self._changed = threading.Condition()
        self._waiting: deque[RequestHandle] = deque()
        self._taken: dict[Prompt, RequestHandle] = {}
        self._dropped: list[RequestHandle] = []
        self._closing = self._closing_now = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="medcap-live", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Requests that no row is free for yet."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Answers that are being decoded."""
        return len(self._taken)

    @property
    def is_healthy(self) -> bool:
        """Whether requests can be answered: the thread lives and has not failed again and again."""
        return self._thread.is_alive() and self._failures < MAX_FAILURES

    def prepare(self, request: Request, sampling: Sampling, index: int = 0) -> Prompt:
        """Check a request and make it ready to run; this is work for the caller's thread.

        Args:
            request: its images must be :class:`PreparedImage`, and masks run-lengths; a path is never opened. Its id
                fixes, with the seed, what is sampled.
            sampling: how tokens are chosen, and how many.
            index: index of the generator that answers.

        Returns:
            The prompt.

        Raises:
            UserError: if it leaves no room for an answer.
            RegionError: if a region cannot be drawn, or the tower is shown nothing of it.
            TypeError: for other images or masks.
        """
        generator = self.generators[index]
        prompt = generator.prompt(request, sampling)
        if not all(isinstance(image, PreparedImage) for image in prompt.images):
            raise TypeError("images of live requests must be prepared")
        if any(isinstance(one.region.shape, MaskFile) for one in prompt.regions):
            raise TypeError("masks of live requests must be run-lengths")
        room = self.capacity - len(prompt.tokens)
        if room < 1:
            raise UserError(f"the prompt has {len(prompt.tokens)} tokens, and a row has {self.capacity}")
        # Drawn here: in the model's thread everybody would wait for a large image.
        regions = tuple(_weighed(generator, prompt, number) for number in range(len(prompt.regions)))
        return replace(prompt, limit=min(prompt.limit, room), regions=regions)

    def submit(
        self,
        prompt: Prompt,
        on_token: Callable[[int], None],
        on_end: Callable[[Generation], None],
        index: int = 0,
    ) -> RequestHandle:
        """Have a prompt answered.

        Args:
            prompt: prompt from :meth:`prepare`, with the same ``index``.
            on_token: called in the model's thread with each token; it must be quick.
            on_end: called in the model's thread once, with the complete answer or an error.
            index: index of the generator that answers.

        Returns:
            A ticket, for :meth:`cancel`.
        """
        ticket = RequestHandle(prompt, index, on_token, on_end)
        with self._changed:
            if not self._closing and self._thread.is_alive():
                self._waiting.append(ticket)
                self._changed.notify()
                return ticket
        on_end(_failed(CLOSING))
        return ticket

    def cancel(self, ticket: RequestHandle) -> None:
        """Give up a request; its callbacks are no longer called.

        Args:
            ticket: ticket of a request that may have ended already.
        """
        with self._changed:
            self._dropped.append(ticket)
            self._changed.notify()

    def close(self, now: bool = False) -> None:
        """Refuse new requests, answer the waiting ones, and end.

        Args:
            now: end those that are there with an error instead.
        """
        with self._changed:
            self._closing = True
            self._closing_now = now
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        first = self.generators[0]
        use_device(first.model.device)
        cache = KVCache(self.max_rows * self.capacity)
        with contextlib.ExitStack() as contexts:
            images = [contexts.enter_context(generator.running()) for generator in self.generators]
            contexts.enter_context(attached(first.model.decoder, cache))
            begins = True
            while True:
                decoder = first.decoder(cache, self.max_rows, self.capacity, self.capacity)
                try:
                    if begins:
                        begins = False
                        decoder.compile_sizes()
                    self._answer(decoder, images)
                    return
                except Exception as error:
                    # [Contract] one request that the device cannot bear must not end the others that come later.
                    logger.exception("answering failed")
                    out_of_memory = isinstance(error, torch.OutOfMemoryError)
                    self._fail(OUT_OF_MEMORY if out_of_memory else FAILED)

    def _answer(self, decoder: Decoder, images: Sequence[ImageRows]) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._dropped or self._taken or self._closing):
                    self._changed.wait()
                self._drop(decoder)
                arrived = self._admitted(decoder.room)
                self._taken |= {ticket.prompt: ticket for ticket in arrived}
                if self._closing and (self._closing_now or not self._taken):
                    break
            # Runs that share a language model have no adapters, so any model of theirs will do.
            with contextlib.ExitStack() as contexts:
                for prompt in [*self._taken][:1]:
                    contexts.enter_context(answering(self.generators[0].model, prompt))
                self._advance(decoder, images, arrived)
        self._fail(CLOSING)

    def _admitted(self, room: int) -> list[RequestHandle]:
        """Take waiting requests in their order, as long as the same components answer them as those that run."""
        arrived: list[RequestHandle] = []
        running = next((prompt.components for prompt in self._taken), None)
        while self._waiting and len(arrived) < room:
            components = self._waiting[0].prompt.components
            if running not in (None, components):
                break
            running = components
            arrived.append(self._waiting.popleft())
        return arrived

    def _advance(self, decoder: Decoder, images: Sequence[ImageRows], arrived: Sequence[RequestHandle]) -> None:
        """Prefill what arrived, and decode a token of every answer."""
        for index, rows in enumerate(images):
            prompts = [ticket.prompt for ticket in arrived if ticket.index == index]
            generator = self.generators[index]
            if prompts:
                trees = plan_trees(prompts, generator.model.image_token_id, len(prompts), generator.max_tree_tokens)
                trees.sort(key=lambda tree: -tree.num_tokens)
                take_in(decoder, deque(trees), rows, self._end)
        if decoder.num_open:
            decoder.step(self._end, self._tell, shrink=not self._waiting)

    def _drop(self, decoder: Decoder) -> None:
        for ticket in self._dropped:
            if self._taken.pop(ticket.prompt, None) is not None:
                decoder.drop(ticket.prompt)
            elif ticket in self._waiting:
                self._waiting.remove(ticket)
        self._dropped.clear()

    def _tell(self, prompt: Prompt, token: int) -> None:
        _call(self._taken[prompt].on_token, token)

    def _end(self, prompt: Prompt, generation: Generation) -> None:
        self._failures = 0
        _call(self._taken.pop(prompt).on_end, generation)

    def _fail(self, reason: str) -> None:
        self._failures += 1
        with self._changed:
            failed = [*self._taken.values()]
            self._taken = {}
            if self._closing_now:
                failed += self._waiting
                self._waiting.clear()
        for ticket in failed:
            _call(ticket.on_end, _failed(reason))


def _weighed(generator: Generator, prompt: Prompt, number: int) -> QuestionRegion:
    """Return a region of a prompt with the weights of the patches under it."""
    one = prompt.regions[number]
    image, encoder, preprocess = prompt.images[one.image], generator.model.region_encoder, generator.preprocess
    assert isinstance(image, PreparedImage) and encoder is not None, "both were checked"
    size = image.size or (image.pixels.shape[-1], image.pixels.shape[-2])
    try:
        frame = preprocess.frame(size, image.fit)
        return replace(one, weights=region_weights(one.region, frame, preprocess.image_size, encoder.form))
    except UserError as error:
        raise RegionError(number, str(error)) from None


def _failed(reason: str) -> Generation:
    return Generation(text="", finish="error", error=reason)


def _call(function: Callable[..., None], *arguments: object) -> None:
    """Call back; one listener that fails must not take the model away from the others."""
    try:
        function(*arguments)
    except Exception:
        logger.exception("a listener failed")
