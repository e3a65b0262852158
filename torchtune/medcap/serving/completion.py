"""Replies of chat completions: one JSON object, or server-sent events, as OpenAI has them."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive, Send

from medcap.generation.decoding.prefix_tree import Prompt
from medcap.serving.answer import Answer
from medcap.serving.api.api_error import ApiError
from medcap.serving.api.chat_body import ChatBody
from medcap.serving.body import ClientGone
from medcap.serving.reply_boxes import reply_boxes
from medcap.serving.reply_masks import reply_masks
from medcap.serving.service import ServedRun

T = TypeVar("T")
# Proxies close connections on which nothing comes; a comment is something, and clients ignore it.
_QUIET_SECONDS = 10.0


class Completion:
    """What the replies to one request have in common.

    Args:
        body: the request.
        prompt: made of it.
        run: answers it.
    """

    def __init__(self, body: ChatBody, prompt: Prompt, run: ServedRun) -> None:
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._run = run
        self._images = prompt.images
        self._num_prompt_tokens = len(prompt.tokens)
        self._with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)

    def whole(self, text: str, answer: Answer) -> dict[str, Any]:
        """Return the reply of a request without ``stream``."""
        message = {"role": "assistant", "content": text, "refusal": None, **self._outputs(answer)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage(answer)}

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """Return a piece of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        return {**chunk, "usage": None} if self._with_usage else chunk

    def last_chunks(self, answer: Answer) -> list[dict[str, Any]]:
        """Return what ends a stream."""
        chunks = [self.chunk(self._outputs(answer), answer.finish)]
        if self._with_usage:
            chunks.append({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(answer)})
        return chunks

    def _outputs(self, answer: Answer) -> dict[str, Any]:
        boxes = reply_boxes(self._run.generator.box_style, self._images, answer.text, answer.outputs)
        masks = reply_masks(len(self._images), answer.text, answer.outputs)
        return {name: found for name, found in (("boxes", boxes), ("masks", masks)) if found}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._run.name}

    def _usage(self, answer: Answer) -> dict[str, int]:
        prompt, words = self._num_prompt_tokens, answer.num_tokens
        return {"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words}


async def read_answer(answer: Answer) -> str:
    """Wait for all words of an answer."""
    pieces = []
    while (piece := await answer.next_piece()) is not None:
        pieces.append(piece)
    return "".join(pieces)


class EventStream:
    """Sends an answer while it is decoded.

    An error after the first byte goes into the stream, where OpenAI's clients raise it.

    Args:
        completion: forms the events.
        answer: answer to send.
        send: send function of the request.
        send_timeout: seconds within which the client must take each event.
    """

    def __init__(self, completion: Completion, answer: Answer, send: Send, send_timeout: float) -> None:
        self._completion = completion
        self._answer = answer
        self._send = send
        self._send_timeout = send_timeout

    async def run(self) -> ApiError | None:
        """Send everything.

        Returns:
            The error, if any.

        Raises:
            ClientGone: when the client takes nothing any more.
        """
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await self._put({"type": "http.response.start", "status": 200, "headers": headers})
        await self._event(self._completion.chunk({"role": "assistant", "content": ""}))
        error = None
        try:
            while (piece := await self._next_piece()) is not None:
                if piece:
                    await self._event(self._completion.chunk({"content": piece}))
            for chunk in self._completion.last_chunks(self._answer):
                await self._event(chunk)
            await self._data(b"data: [DONE]\n\n")
        except ApiError as failure:
            error = failure
            await self._event(failure.body)
        await self._put({"type": "http.response.body"})
        return error

    async def _next_piece(self) -> str | None:
        waiting = asyncio.ensure_future(self._answer.next_piece())
        try:
            while not (await asyncio.wait([waiting], timeout=_QUIET_SECONDS))[0]:
                await self._data(b": waiting\n\n")
            return waiting.result()
        finally:
            waiting.cancel()

    async def _event(self, value: dict[str, Any]) -> None:
        await self._data(b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n")

    async def _data(self, data: bytes) -> None:
        await self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def _put(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._send_timeout):
                await self._send(message)
        except TimeoutError:
            raise ClientGone from None


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do some work as long as the client is there.

    Args:
        receive: receive function of the request, whose body was read already.
        work: cancelled when the client leaves.

    Returns:
        The result of the work.

    Raises:
        ClientGone: when the client leaves before the work is done.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
