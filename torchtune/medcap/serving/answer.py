"""One answer on its way from the model's thread to the event loop."""

from __future__ import annotations

import asyncio
import logging
import time

from medcap.data.outputs import NOTHING
from medcap.errors import RegionError, UserError, WordsError
from medcap.generation.continuous_batching import CLOSING, OUT_OF_MEMORY
from medcap.generation.decoding.finite import NOT_FINITE
from medcap.generation.decoding.prefix_tree import Prompt
from medcap.generation.request import Generation, Request, Sampling
from medcap.generation.text_stream import TextStream
from medcap.models.words import AddedWords
from medcap.serving.api.api_error import ApiError, bad_request, internal_error, one_line
from medcap.serving.api.chat_body import ChatBody
from medcap.serving.api.conversation_reader import too_long
from medcap.serving.api.request_regions import fields_of_regions
from medcap.serving.limits import Limits
from medcap.serving.service import ServedRun

# With the seed it fixes what is sampled, so it must be the same for every request.
REQUEST_KEY = "chat"

logger = logging.getLogger(__name__)


def make_prompt(run: ServedRun, body: ChatBody, seed: int, limits: Limits, request_id: str) -> Prompt:
    """Decode the images of a request and tokenize it; this is work for a thread.

    Args:
        run: answers it.
        body: the request.
        seed: what is sampled with where the request names none.
        limits: bounds.
        request_id: id of the request, for the log.

    Returns:
        The prompt.

    Raises:
        ApiError: 400, if a turn, an image or a region cannot be taken, or no room is left for an answer.
    """
    messages = run.reader.read(body, request_id)
    sampling = Sampling(
        max_new_tokens=min(body.wanted_tokens or limits.max_new_tokens, limits.max_new_tokens),
        # A report should not change from one day to the next: sampling is what has to be asked for. The smallest
        # probability that top_p can ask for is reached by the likeliest token alone.
        temperature=0.0 if body.top_p == 0 else body.temperature or 0.0,
        # 0 and -1 are how other engines are asked for all tokens.
        top_k=None if body.top_k is None or body.top_k < 1 else body.top_k,
        top_p=body.top_p or None,
        seed=seed if body.seed is None else body.seed,
    )
    for name in body.without:
        if name not in run.generator.model.adapters:
            known = ", ".join(run.generator.model.adapters) or "none"
            raise bad_request(f"this model has no such component to leave out; there are: {known}", "without")
    fields = list(fields_of_regions(body))
    if fields and AddedWords.name in body.without:
        raise bad_request(f"without {AddedWords.name} this model reads no regions: leave them out", fields[0])
    request = Request(messages, REQUEST_KEY, answer_prefix=body.prefix, without=tuple(sorted(set(body.without))))
    try:
        return run.live.prepare(request, sampling, run.index)
    except RegionError as error:
        field = fields[error.number]
        raise bad_request(one_line(f"'{field}': {error}", 300), field, "invalid_region") from None
    except WordsError as error:
        logger.info("%s: prompt refused: %.300r", request_id, error)
        if _is_foreign(error):
            raise _refusal(run, request, request_id) from None
        reason = str(error).removeprefix(f"request {REQUEST_KEY}: ")
        raise bad_request(f"the language model cannot take these messages: {reason}", "messages") from None
    except (UserError, ValueError) as error:
        logger.info("%s: prompt refused: %.300r", request_id, error)
        raise _refusal(run, request, request_id) from None


def _is_foreign(error: BaseException | None) -> bool:
    """Return whether the words of an error are those of a tokenizer, which may name what a client should not see."""
    while isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error is not None


def _refusal(run: ServedRun, request: Request, request_id: str) -> ApiError:
    try:
        num_tokens = len(run.generator.tokenizer_of(request).prompt(request.messages, request.answer_prefix).tokens)
    except (UserError, ValueError):
        # Some templates know no system turn, and some tokenizers not every character.
        return bad_request("the model's chat template cannot take these turns or their words", "messages")
    return too_long(run.context, num_tokens) if num_tokens >= run.context else internal_error(request_id)


class Answer:
    """The words of one answer as they come.

    It begins with its creation, in the event loop; :meth:`close` must be called at its end.

    Args:
        run: answers.
        prompt: prompt from :func:`make_prompt`.
        stop: texts before which the answer ends.
        deadline: time of the event loop's clock after which the answer is given up.
        request_id: id of the request.
        prefix: words of the answer that the prompt ends with; they are not sent again.

    Attributes:
        num_tokens: number of tokens of the answer so far.
        text: words of the answer so far.
        outputs: results of the model beside its words, once it is complete.
        finish: ``"stop"`` or ``"length"`` once it is complete.
        first_token: when the first token came (``time.perf_counter``).
    """

    def __init__(
        self, run: ServedRun, prompt: Prompt, stop: list[str], deadline: float, request_id: str, prefix: str = ""
    ) -> None:
        self._live = run.live
        tokenizer = run.generator.tokenizer
        self._words = TextStream(tokenizer, stop, tokenizer.answer(prefix, end_of_turn=False))
        # The prompt ends with the prefix's last word: of white space after it the answer brings its own.
        self._has_space = prefix != prefix.rstrip()
        self._deadline = deadline
        self._request_id = request_id
        self._loop = asyncio.get_running_loop()
        # No more than an answer has tokens: a client that reads slowly costs a few kB, and no row.
        self._events: asyncio.Queue[int | Generation] = asyncio.Queue()
        self.num_tokens = 0
        self.text = ""
        self.outputs = NOTHING
        self.finish: str | None = None
        self.first_token: float | None = None
        self._ended = False
        self._ticket = run.live.submit(prompt, self._tell, self._tell, run.index)

    def _tell(self, event: int | Generation) -> None:
        """In the model's thread."""
        if self.first_token is None:
            self.first_token = time.perf_counter()
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def next_piece(self) -> str | None:
        """Wait for more of the answer.

        Returns:
            New words, which may be none yet; None at the end.

        Raises:
            ApiError: 503 when the server stops or lacks memory, 504 after the deadline, 500 when the model failed.
        """
        if self.finish is not None:
            return None
        try:
            async with asyncio.timeout_at(self._deadline):
                event = await self._events.get()
        except TimeoutError:
            raise ApiError(504, "the answer took too long and was given up", "timeout") from None
        if isinstance(event, Generation):
            self._ended = True
            if event.finish == "error":
                raise self._failure(event.error)
            self.finish, self.outputs = event.finish, event.outputs
            return self._joined(self._words.finish())
        self.num_tokens += 1
        piece = self._joined(self._words.push(event))
        if self._words.stopped:
            self.finish = "stop"
        return piece

    def close(self) -> None:
        """Free the row, if the answer is not complete."""
        if not self._ended:
            self._ended = True
            self._live.cancel(self._ticket)

    def _joined(self, piece: str) -> str:
        if self._has_space and piece:
            self._has_space = False
            piece = piece.lstrip()
        self.text += piece
        return piece

    def _failure(self, error: str) -> ApiError:
        logger.warning("%s: no answer: %s", self._request_id, error)
        if error == CLOSING:
            return ApiError(503, "the server is shutting down", "shutting_down")
        if error == OUT_OF_MEMORY:
            return ApiError(503, "the requests of this moment were too large together", "overloaded", retry_after=5)
        if error.endswith(NOT_FINITE):
            return ApiError(500, f"{error}: the model cannot answer this request", "not_finite")
        return internal_error(self._request_id)
