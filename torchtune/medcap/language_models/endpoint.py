"""A language model behind any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import importlib.util
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import urlsplit

from medcap.errors import UserError
from medcap.generation.progress import Progress
from medcap.language_models.base import NOT_SENT, Admit, LanguageModel, OnReply, Prompt, Reply, turns_of
from medcap.language_models.pauses import asked_pause
from medcap.language_models.request_fields import RequestFields

DEFAULT_BASE_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
# An endpoint that fails on this many prompts before it ever replied is not there.
_NEVER_REPLIED = 3
# After this many failures in a row the endpoint is considered gone: waiting for all other prompts would take hours.
_GONE = 20
_LONGEST_PAUSE = 120  # seconds: the openai client does not wait longer for a server
_BAD_REQUEST = (400, 422)
_REFUSED = (401, 403, 404)
_SHORTEST_SECRET = 8
_MOST_TOKENS = 10**9
_NO_KEY = "none"  # a server that wants no key gets this word


class Endpoint(LanguageModel):
    """Asks ``POST <base_url>/chat/completions`` with temperature 0, several prompts at a time.

    The openai client tries again after connection errors, timeouts, 408, 409, 429 and 5xx, each time after a longer
    wait, or after the pause that the server asks for (``Retry-After``, at most two minutes). A field that the server
    does not take, such as ``max_tokens`` or ``temperature``, is sent under its other name or left out from then on. An
    endpoint that has not replied once ends the run after a few prompts; one that fails later fails on those prompts
    only, and after 20 of them in a row the others are not sent any more.

    Args:
        model: model as the server names it.
        base_url: up to and without ``/chat/completions``; by default the environment variable ``OPENAI_BASE_URL``,
            else OpenAI's.
        api_key: key of the API; by default the environment variable ``api_key_env``. A local server may need none.
            It is never shown and never written.
        api_key_env: name of that variable.
        max_new_tokens: most tokens of a reply.
        timeout: seconds without an answer after which a request has failed.
        retries: further tries of one prompt.
        concurrency: prompts that wait for their reply at the same time.
        progress: show the progress on stderr.
        request: further fields of a request, such as ``{"reasoning_effort": "low"}``; None leaves a field out.

    Raises:
        UserError: if the package openai is not installed, or something is missing or impossible.

    Example:
        >>> model = Endpoint("Llama-3.1-70B-Instruct", "http://localhost:8000/v1", concurrency=32)
        >>> model.ask(["Name an organ."], lambda place, reply: print(place, reply.text))
    """

    kind: ClassVar[str] = "endpoint"

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        api_key_env: str = KEY_VARIABLE,
        max_new_tokens: int = 200,
        timeout: float = 60.0,
        retries: int = 3,
        concurrency: int = 8,
        progress: bool = True,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        if importlib.util.find_spec("openai") is None:
            raise UserError("an endpoint needs the package openai: pip install medcap[judge]")
        self.model = model
        self.base_url = base_url or os.environ.get(URL_VARIABLE) or DEFAULT_BASE_URL
        self._key = api_key or os.environ.get(api_key_env) or ""
        self.api_key_env = api_key_env
        self.max_new_tokens = max_new_tokens
        self.timeout = timeout
        self.retries = retries
        self.concurrency = concurrency
        self.progress = progress
        self.request = dict(request or {})
        self._fields = RequestFields(max_new_tokens, self.request)
        self._paused_until = 0.0
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UserError(
                f"the base URL {self.shown_url} is no whole address: give one such as http://localhost:8000/v1"
            )
        if not self._key and self.base_url == DEFAULT_BASE_URL:
            raise UserError(
                f"there is no key for {DEFAULT_BASE_URL}: set the environment variable {api_key_env}, or give"
                " the base URL of a server of your own"
            )

    @property
    def name(self) -> str:
        return self.model

    @property
    def shown_url(self) -> str:
        """The address without what may be a secret in it: user, password, query."""
        return re.sub(r"[?#].*", "", re.sub(r"//[^/@]*@", "//", self.base_url)).rstrip("/")

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "base_url": self.shown_url,
            "model": self.model,
            "temperature": 0,
            "max_new_tokens": self.max_new_tokens,
            **({"request": self.request} if self.request else {}),
        }

    @property
    def notices(self) -> list[str]:
        """See :attr:`Judge.notices`."""
        return list(self._fields.notices)

    def ask(self, prompts: Sequence[str | Prompt], on_reply: OnReply, admit: Admit | None = None) -> None:
        if not prompts:
            return
        run = _Run(self, prompts, admit)
        replied, in_a_row, num_done = 0, 0, 0
        with Progress(len(prompts), self.progress and len(prompts) > 1) as progress, run:
            while num_done < len(prompts):
                outcome = run.next()
                num_done += 1
                on_reply(outcome.position, outcome.reply)
                if outcome.reply.finish == NOT_SENT:
                    continue
                progress.add(outcome.reply.num_tokens)
                replied += not outcome.reply.error
                in_a_row = in_a_row + 1 if outcome.endpoint_failed else 0
                if not replied and in_a_row >= min(_NEVER_REPLIED, len(prompts)):
                    raise UserError(
                        f"the endpoint {self.shown_url} does not reply ({outcome.reply.error}): check that the server"
                        f" runs, the base URL (it mostly ends in /v1), the model {self.model} and the key in"
                        f" {self.api_key_env}; replies so far are kept, the same command goes on"
                    )
                if in_a_row >= _GONE and not run.stopping:
                    print(
                        f"note: the endpoint failed {in_a_row} times in a row, the prompts that are left are not sent:"
                        f" {outcome.reply.error}",
                        file=sys.stderr,
                    )
                    run.stop(f"not sent, the endpoint had failed {in_a_row} times in a row: {outcome.reply.error}")

    def reply(self, prompt: str | Prompt) -> Reply:
        """Send one prompt, as often as it takes.

        Args:
            prompt: the conversation, or the words of its one user turn.

        Returns:
            The reply; one without words has the text "".

        Raises:
            _Failure: if there is no reply.
        """
        import openai

        fields = self._fields.current
        try:
            # As extra_body, for a field that the client does not know is the server's matter.
            messages: Any = [{"role": turn.role, "content": _sendable(turn.content)} for turn in turns_of(prompt)]
            completion = self._client.chat.completions.create(model=self.model, messages=messages, extra_body=fields)
            choice = completion.choices[0]
            text = _text(choice.message.content)
            return Reply(
                self._redacted(text).strip(),
                choice.finish_reason or "stop",
                _counted_tokens(completion.usage, "completion_tokens"),
                num_prompt_tokens=_counted_tokens(completion.usage, "prompt_tokens"),
            )
        except openai.APITimeoutError as error:
            raise _Failure(f"no answer within timeout={self.timeout:g} s{_tries(error)}") from None
        except openai.APIConnectionError as error:
            raise _Failure(self._line(f"no connection: {error.__cause__ or error}") + _tries(error)) from None
        except openai.APIStatusError as error:
            message = self._line(_message(error))
            if error.status_code in _BAD_REQUEST:
                changed = self._fields.adapt(fields, error.code, error.param, message)
                if changed is not None:
                    if changed:
                        print(f"note: {changed}", file=sys.stderr)
                    return self.reply(prompt)
            passes = error.status_code in (408, 409, 429) or error.status_code >= 500
            line = f"status {error.status_code}: {message}{_tries(error)}"
            pause = asked_pause(error.response.headers) if passes else None
            if pause is not None and pause > _LONGEST_PAUSE:
                line += f"; the server asks to wait {pause:.0f} s, more than the {_LONGEST_PAUSE} s that are waited"
            raise _Failure(line, of_endpoint=passes or error.status_code in _REFUSED) from None
        except (openai.OpenAIError, ValueError, AttributeError, TypeError, LookupError, RecursionError):
            raise _Failure("what came back is not a chat completion") from None

    @cached_property
    def _client(self) -> Any:
        import openai

        return openai.OpenAI(
            base_url=self.base_url,
            api_key=self._key or _NO_KEY,
            timeout=self.timeout,
            max_retries=self.retries,
            http_client=openai.DefaultHttpxClient(event_hooks={"response": [self._on_response]}),
        )

    def _on_response(self, response: Any) -> None:
        """Report a pause to the user; make the client wait where it does not know the header."""
        if response.status_code not in (429, 503):
            return
        pause = asked_pause(response.headers)
        if pause is None:
            return
        response.headers["retry-after-ms"] = f"{1000 * pause:.0f}"
        until = time.monotonic() + pause
        # Prompts that wait at the same time are reported once.
        if 1 <= pause <= _LONGEST_PAUSE and until > self._paused_until + 1:
            self._paused_until = until
            print(f"note: the endpoint asks to wait {pause:.0f} s (status {response.status_code})", file=sys.stderr)

    def _line(self, text: str) -> str:
        line = " ".join(self._redacted(text).split())
        return line if len(line) <= 300 else f"{line[:297]}..."

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "[key]") if len(self._key) >= _SHORTEST_SECRET else text


def _sendable(text: str) -> str:
    """Return a text with a question mark for each half of a character, which JSON knows and UTF-8 does not."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _counted_tokens(usage: Any, field: str) -> int:
    """Return a number of tokens; 0 where the server counts none, or says something else than a number of tokens."""
    number = getattr(usage, field, None)
    return number if type(number) is int and 0 < number <= _MOST_TOKENS else 0


def _text(content: Any) -> str:
    """Return a message's text; some servers send a list of parts, with the reasoning in separate parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and part.get("type") == "text")
    return content or ""


def _message(error: Any) -> str:
    body = error.body
    message = (body.get("message") or body.get("detail")) if isinstance(body, dict) else None
    return str(message or error.message)


def _tries(error: Any) -> str:
    tries = 1 + int(error.request.headers.get("x-stainless-retry-count", 0))
    return f" ({tries} tries)" if tries > 1 else ""


@dataclass(frozen=True)
class _Outcome:
    position: int
    reply: Reply
    endpoint_failed: bool = False


class _Failure(Exception):
    """No reply came. ``of_endpoint``: the next prompt will probably get none either."""

    def __init__(self, line: str, of_endpoint: bool = True) -> None:
        super().__init__(line)
        self.of_endpoint = of_endpoint


class _Run:
    """Prompts on their way. Threads are daemons: a program that ends does not wait for a server that hangs."""

    def __init__(self, model: Endpoint, prompts: Sequence[str | Prompt], admit: Admit | None) -> None:
        self._model = model
        self._admit = admit
        self._waiting: queue.SimpleQueue[tuple[int, str | Prompt] | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[_Outcome | BaseException] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._why = ""
        for item in enumerate(prompts):
            self._waiting.put(item)
        self._num_threads = min(model.concurrency, len(prompts))

    def __enter__(self) -> _Run:
        self._model._client  # noqa: B018 - made once, before the threads could race for it
        for _ in range(self._num_threads):
            threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop("stopped")
        for _ in range(self._num_threads):
            self._waiting.put(None)

    @property
    def stopping(self) -> bool:
        """Whether nothing more is sent."""
        return self._stop.is_set()

    def stop(self, why: str) -> None:
        """Send nothing more; what is left fails with ``why``."""
        self._why = self._why or why
        self._stop.set()

    def next(self) -> _Outcome:
        """Wait for the next outcome."""
        outcome = self._outcomes.get()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            try:
                self._outcomes.put(self._ask(*item))
            except BaseException as error:
                self._outcomes.put(error)

    def _ask(self, position: int, prompt: str | Prompt) -> _Outcome:
        why = self._why if self._stop.is_set() else self._admit(position) if self._admit is not None else ""
        if why:
            return _Outcome(position, Reply("", NOT_SENT, error=why))
        try:
            return _Outcome(position, self._model.reply(prompt))
        except _Failure as failure:
            return _Outcome(position, Reply("", "error", error=str(failure)), failure.of_endpoint)
