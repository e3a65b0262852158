"""The server's endpoints."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from medcap.generation.decoding.prefix_tree import Prompt
from medcap.serving.answer import Answer, make_prompt
from medcap.serving.api.api_error import ApiError, one_line
from medcap.serving.api.chat_body import ChatBody, read_chat_body
from medcap.serving.body import body_of
from medcap.serving.completion import Completion, EventStream, read_answer, while_connected
from medcap.serving.metrics import CONTENT_TYPE
from medcap.serving.middleware import error_response
from medcap.serving.service import ServedRun, Service


class Keys:
    """Checks whether a request has one of the keys.

    Args:
        keys: none, if no key is needed.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def check(self, request: Request) -> None:
        """Raise ApiError 401 unless the header ``Authorization: Bearer KEY`` has a key."""
        if not self._digests:
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        # Digests have one length, and every key is compared, so the duration reveals nothing.
        given = hashlib.sha256(key.strip().encode("latin-1")).digest()
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if kind.lower() != "bearer" or not any(matches):
            raise ApiError(401, "the API key is missing or wrong", "invalid_api_key")


def api_routes(service: Service, keys: Keys) -> list[Route]:
    """All endpoints of the programs' interface.

    Args:
        service: answers.
        keys: needed for everything but ``/health``.

    Returns:
        The routes.
    """

    async def health(request: Request) -> Response:
        healthy = service.is_healthy
        return JSONResponse({"status": "ok" if healthy else "unavailable"}, 200 if healthy else 503)

    async def metrics(request: Request) -> Response:
        keys.check(request)
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def models(request: Request) -> Response:
        keys.check(request)
        return JSONResponse({"object": "list", "data": [_model(run) for run in service.runs.values()]})

    async def model(request: Request) -> Response:
        keys.check(request)
        return JSONResponse(_model(find_run(service, request.path_params["name"])))

    return [
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/chat/completions", ChatCompletions(service, keys), methods=["POST"]),
    ]


class ChatCompletions:
    """``POST /v1/chat/completions``.

    Args:
        service: answers.
        keys: keys to check.
    """

    def __init__(self, service: Service, keys: Keys) -> None:
        self._service = service
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        began = time.perf_counter()
        deadline = asyncio.get_running_loop().time() + self._service.limits.timeout
        request = Request(scope)
        self._keys.check(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "send the header 'Content-Type: application/json'", "unsupported_media_type")
        self._service.check_room()
        request_id = request.state.request_id
        async with body_of(scope, receive, self._service) as data:
            with self._service.admitted():
                # Not cancelled on disconnect: queued work must stay counted.
                body, run, prompt = await self._prepare(data, request_id)
                # Not needed any more, and much of what is held.
                self._service.body_bytes -= len(data)
                data.clear()
                request.state.log.update(model=run.name, images=len(prompt.images), prompt=len(prompt.tokens))
                answer = Answer(run, prompt, body.stop, deadline, request_id, body.prefix)
                try:
                    await while_connected(receive, self._reply(scope, receive, send, body, run, prompt, answer))
                finally:
                    answer.close()
                    self._count(request, run, prompt, answer, began)

    async def _prepare(self, data: bytearray, request_id: str) -> tuple[ChatBody, ServedRun, Prompt]:
        def work() -> tuple[ChatBody, ServedRun, Prompt]:
            body = read_chat_body(data, self._service.limits.max_messages)
            run = find_run(self._service, body.model)
            return body, run, make_prompt(run, body, secrets.randbits(63), self._service.limits, request_id)

        return await asyncio.get_running_loop().run_in_executor(self._service.threads, work)

    async def _reply(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        body: ChatBody,
        run: ServedRun,
        prompt: Prompt,
        answer: Answer,
    ) -> None:
        completion = Completion(body, prompt, run)
        if body.stream:
            error = await EventStream(completion, answer, send, self._service.limits.send_timeout).run()
            if error is not None:
                scope["state"]["log"]["error"] = error.code
            return
        text = await read_answer(answer)
        await JSONResponse(completion.whole(text, answer))(scope, receive, send)

    def _count(self, request: Request, run: ServedRun, prompt: Prompt, answer: Answer, began: float) -> None:
        metrics = self._service.metrics
        metrics.prompt_tokens.labels(run.name).inc(len(prompt.tokens))
        metrics.generated_tokens.labels(run.name).inc(answer.num_tokens)
        metrics.images.labels(run.name).inc(len(prompt.images))
        if answer.first_token is not None:
            metrics.first_token.labels(run.name).observe(answer.first_token - began)
        if answer.finish is not None:
            metrics.latency.labels(run.name).observe(time.perf_counter() - began)
        request.state.log.update(generated=answer.num_tokens, finish=answer.finish)


def find_run(service: Service, name: str) -> ServedRun:
    """Return the run of a name, or raise ApiError 404, which names those that are served."""
    run = service.runs.get(name)
    if run is None:
        served = ", ".join(service.runs)
        raise ApiError(
            404, f"there is no model '{one_line(name, 100)}'; served are: {served}", "model_not_found", "model"
        )
    return run


def _model(run: ServedRun) -> dict[str, Any]:
    # vLLM's name for the tokens of a conversation with its answer.
    known = {"id": run.name, "object": "model", "created": run.created, "owned_by": "medcap"}
    return {**known, "max_model_len": run.context}


async def on_api_error(request: Request, error: Exception) -> Response:
    """Reply to an :class:`ApiError` that an endpoint raised."""
    assert isinstance(error, ApiError)
    request.state.log["error"] = error.code
    return error_response(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Reply to a path or method that there is not."""
    assert isinstance(error, HTTPException)
    words = {404: "there is nothing at this path", 405: "this path does not take this method"}
    refusal = ApiError(error.status_code, words.get(error.status_code, "this cannot be served"), "invalid_request")
    response = error_response(refusal)
    response.headers.update(error.headers or {})
    return response
