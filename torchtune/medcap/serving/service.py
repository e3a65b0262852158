"""The runs that a server has loaded, and how many requests it takes for them."""

from __future__ import annotations

import contextlib
import queue
import time
from collections import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image

from medcap.errors import UserError
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.generator import Generator
from medcap.generation.prompt import caption_request
from medcap.generation.request import Generation, Sampling
from medcap.generation.run import open_runs
from medcap.serving.api.api_error import overloaded
from medcap.serving.api.conversation_reader import ConversationReader
from medcap.serving.limits import Limits
from medcap.serving.metrics import Metrics
from medcap.threads import reading_threads, run_apart

# Each may hold a decoded image of the limit's size, several hundred MB, for a moment.
_MAX_THREADS = 4


@dataclass(frozen=True, eq=False)
class ServedRun:
    """One run under the name that requests give as ``model``.

    Attributes:
        name: the model id.
        generator: generator of the run.
        live: answers; runs over one language model share it.
        index: index of the generator in it.
        reader: makes messages of requests.
        created: when it was loaded, in seconds since 1970.
    """

    name: str
    generator: Generator
    live: LiveGenerator
    index: int
    reader: ConversationReader
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def context(self) -> int:
        """Most tokens of a conversation with its answer: the model's own limit, or the server's where that is lower."""
        return min(self.generator.max_seq_len, self.live.capacity)

    @property
    def reads_regions(self) -> bool:
        """Whether questions can name regions."""
        return self.generator.tokenizer.region_token_id is not None


class Service:
    """Several loaded runs behind one interface.

    Args:
        generators: generators by model id; those with a common decoder share one batch.
        limits: bounds.

    Attributes:
        runs: runs by model id.
        limits: bounds.
        threads: decode images and tokenize, so that the event loop does neither.
        metrics: counters.
        body_bytes: bytes of bodies that are held now.
    """

    def __init__(self, generators: dict[str, Generator], limits: Limits) -> None:
        self.limits = limits
        self.runs: dict[str, ServedRun] = {}
        self._lives: list[LiveGenerator] = []
        groups: dict[int, list[str]] = {}
        for name, generator in generators.items():
            if generator.max_seq_len > limits.max_seq_len:
                raise ValueError(f"{name} takes conversations of more than max_seq_len={limits.max_seq_len} tokens")
            groups.setdefault(id(generator.model.decoder), []).append(name)
        for names in groups.values():
            members = [generators[name] for name in names]
            live = LiveGenerator(members, limits.max_rows, max(member.max_seq_len for member in members))
            self._lives.append(live)
            for index, (name, generator) in enumerate(zip(names, members, strict=True)):
                self.runs[name] = ServedRun(name, generator, live, index, ConversationReader(generator, limits))
        self.threads = reading_threads(_MAX_THREADS, "medcap-prepare")
        self.metrics = Metrics(
            lambda: sum(live.num_waiting for live in self._lives), lambda: sum(live.num_running for live in self._lives)
        )
        self.body_bytes = 0
        self._admitted = 0
        self._closing = False

    @property
    def is_healthy(self) -> bool:
        """Whether requests can be answered."""
        return not self._closing and all(live.is_healthy for live in self._lives)

    @property
    def num_admitted(self) -> int:
        """Requests that are prepared, wait or are answered."""
        return self._admitted

    @property
    def capacity(self) -> int:
        """Most requests that are taken at one moment."""
        return self.limits.max_queue + self.limits.max_rows * len(self._lives)

    def check_room(self) -> None:
        """Raise ApiError 429 when no further request can be taken."""
        if self._admitted >= self.capacity:
            raise overloaded("too many requests wait already: come back later")

    @contextlib.contextmanager
    def admitted(self) -> abc.Generator[None]:
        """Count a request in while the block lasts.

        Raises:
            ApiError: 429 when no further request can be taken.
        """
        self.check_room()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    def warm_up(self) -> None:
        """Have each run caption a grey picture: what is compiled or allocated at first use is so before clients come.

        Raises:
            UserError: if a run cannot answer.
        """
        picture = Image.new("L", (64, 64), 128)
        for run in self.runs.values():
            request = caption_request(run.generator.prepare(picture, "warm-up"))
            prompt = run.live.prepare(request, Sampling(max_new_tokens=2), run.index)
            answers: queue.SimpleQueue[Generation] = queue.SimpleQueue()
            run.live.submit(prompt, lambda token: None, answers.put, run.index)
            answer = answers.get()
            if answer.finish == "error":
                raise UserError(f"{run.name} cannot answer: {answer.error}")

    def stop_taking(self) -> None:
        """Report from now on that no requests should come."""
        self._closing = True

    def close(self, now: bool = False) -> None:
        """End; it waits for the answers that are being decoded.

        Args:
            now: end them with an error instead.
        """
        self._closing = True
        for live in self._lives:
            live.close(now)
        self.threads.shutdown(wait=False, cancel_futures=True)


def load_service(
    runs: Sequence[str | Path],
    limits: Limits,
    overrides: Sequence[str] = (),
    names: Sequence[str] = (),
    mask_from_boxes: str | None = None,
    cuda_graphs: bool = False,
) -> Service:
    """Load trained runs.

    Args:
        runs: their folders.
        limits: bounds.
        overrides: ``key=value`` of the model keys, for all runs.
        names: model ids; by default the folders' names.
        mask_from_boxes: folder of a SAM that gives the masks of answers' boxes; None gives none.
        cuda_graphs: whether decoding steps become CUDA graphs.

    Returns:
        The service.

    Raises:
        UserError: if a run cannot be loaded, or names do not fit.
    """
    names = list(names) or model_names(runs)
    if len(names) != len(runs):
        raise UserError(f"there are {len(runs)} runs and {len(names)} names: give --name once for each run")
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"--name: {', '.join(names)} must all differ and not be empty")
    options = {"max_seq_len": limits.max_seq_len, "progress": False, "cuda_graphs": cuda_graphs}
    generators = run_apart(partial(open_runs, runs, overrides, [], mask_from_boxes, **options))
    return Service(dict(zip(names, generators, strict=True)), limits)


def model_names(runs: Sequence[str | Path]) -> list[str]:
    """Name runs by their folders, with as many of the folders above as it takes to tell them apart.

    Raises:
        UserError: if a run is named twice.
    """
    paths = [Path(run).expanduser().resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise UserError("a run is named twice: serve it once")
    names = [path.name for path in paths]
    depth = 1
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(path.parts[-depth:]) for path in paths]
    return names
