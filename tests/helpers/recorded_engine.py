"""A model that remembers what it was asked, and rows to ask it about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from medcap.data.boxes.style import BoxStyle
from medcap.data.images.reference import ImageRef
from medcap.data.labels_and_image_tokens import TokenizedPrompt
from medcap.errors import UserError
from medcap.evaluation.answering import Engine
from medcap.generation.prompt import user_message
from medcap.generation.request import CandidateScores, Generation, Request, Sampling
from medcap.scoring.question import Question

Turns = list[tuple[str, list[Any]]]


class EmptyChat:
    """A tokenizer to which no prompt has any tokens, so that limits are what was asked for."""

    image_token_id = vocab_size = 0

    def prompt(self, messages: list[Any]) -> TokenizedPrompt:
        """No tokens."""
        return TokenizedPrompt([], [])


class FakeGenerator:
    """The doors of a generator over functions that take no sampling."""

    def __init__(self, generate: Any, score: Any, tokenizer: Any, max_seq_len: int) -> None:
        self.answer = generate
        self.score = score
        self.tokenizer = tokenizer
        self.max_seq_len = max_seq_len
        self.model = SimpleNamespace(adapters=())
        self.box_style = BoxStyle()

    def generate(self, requests: list[Request], sampling: Sampling, on_result: Callable[[int, Any], None]) -> None:
        """See :class:`Generator`."""
        self.answer(requests, on_result)


def fake_engine(
    generate: Any = None,
    score: Any = None,
    tokenizer: Any = None,
    max_seq_len: int = 1024,
    max_new_tokens: int = 300,
) -> Engine:
    """An engine over ``generate(requests, on_result)`` and ``score(requests, candidates, end_of_turn, on_result)``."""
    generator = FakeGenerator(generate, score, tokenizer or EmptyChat(), max_seq_len)
    return Engine(generator, Sampling(max_new_tokens=max_new_tokens))  # type: ignore[arg-type]


class RecordedEngine:
    """Answers at once.

    Args:
        reply: a request -> the text of its answer.
        sums: the candidates of a request -> their log-probabilities.
        broken: ids of requests that stop a whole call, as a prompt that is too long does.
        unanswered: ids of requests whose generation ends in an error, as a damaged image does.
        stop_after: answers after which the run is killed.
    """

    def __init__(
        self,
        reply: Callable[[Request], str] = lambda request: "said",
        sums: Callable[[list[str]], list[float]] = lambda candidates: [-float(len(text)) for text in candidates],
        broken: Iterable[str] = (),
        unanswered: Iterable[str] = (),
        stop_after: int | None = None,
    ) -> None:
        self.reply = reply
        self.sums = sums
        self.broken = set(broken)
        self.unanswered = set(unanswered)
        self.stop_after = stop_after
        self.requests: list[Request] = []
        self.candidates: list[list[str]] = []
        self.ends_of_turn: set[bool] = set()

    @property
    def ids(self) -> list[str]:
        """Of what was asked, in order."""
        return [request.id for request in self.requests]

    def engine(self, **options: Any) -> Engine:
        """For a prompt method; ``options`` are those of :func:`fake_engine`."""
        return fake_engine(self.generate, self.score, **options)

    def generate(self, requests: list[Request], on_result: Callable[[int, Any], None]) -> None:
        """See :class:`Engine`."""
        for index, request in enumerate(requests):
            self._note(request)
            if request.id in self.unanswered:
                on_result(index, Generation("", [], "error", f"{request.id} is damaged"))
            else:
                on_result(index, Generation(self.reply(request), [1, 2], "stop"))

    def score(
        self, requests: list[Request], candidates: Any, end_of_turn: bool, on_result: Callable[[int, Any], None]
    ) -> None:
        """See :class:`Engine`."""
        for index, (request, texts) in enumerate(zip(requests, candidates, strict=True)):
            self._note(request)
            self.candidates.append(list(texts))
            self.ends_of_turn.add(end_of_turn)
            if request.id in self.unanswered:
                on_result(index, CandidateScores(error=f"{request.id} is damaged"))
            else:
                on_result(index, CandidateScores(self.sums(list(texts)), [len(text.split()) for text in texts]))

    def _note(self, request: Request) -> None:
        if request.id in self.broken:
            raise UserError(f"request {request.id} is too long")
        if self.stop_after is not None and len(self.requests) == self.stop_after:
            raise KeyboardInterrupt
        self.requests.append(request)


def turns_of(request: Request | None) -> Turns:
    """Roles, and for each its parts: an image as a ``Path``, words as text."""
    assert request is not None
    return [
        (
            message.role,
            [Path(str(part["content"])) if part["type"] == "image" else part["content"] for part in message.content],
        )
        for message in request.messages
    ]


def question_row(
    id: str,
    question: str,
    image: str | None = None,
    reference: str = "yes",
    options: tuple[str, ...] = (),
    **fields: Any,
) -> Question:
    """A row with one question; ``fields`` are those of :class:`Row`."""
    shown = None if image is None else ImageRef(image)
    return Question(id, [user_message(shown, question)], (reference,), options, **fields)
