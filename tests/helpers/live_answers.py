"""Requests to a ``LiveGenerator``, as the server makes them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from PIL import Image

from helpers.waiting import PATIENCE
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.generator import Generator
from medcap.generation.request import Generation, Request, Sampling


def with_pixels(generator: Generator, request: Request) -> Request:
    """Return a request with its pictures decoded."""
    messages = []
    for message in request.messages:
        parts = [dict(part) for part in message.content]
        for part in parts:
            if part["type"] == "image":
                with Image.open(generator.reader.resolve(part["content"])) as picture:
                    part["content"] = generator.prepare(picture, part["content"])
        messages.append(type(message)(role=message.role, content=parts, masked=message.masked))
    return replace(request, messages=messages)


def answers_of(
    live: LiveGenerator, requests: Sequence[Request], rules: Sequence[Sampling], patience: float = PATIENCE
) -> list[Generation]:
    """Submit all requests at once.

    Args:
        live: of one generator.
        requests: with names of pictures.
        rules: one for each request.
        patience: seconds for each answer.

    Returns:
        The answers, in the order of the requests.
    """
    found: dict[int, Generation] = {}
    ended = threading.Semaphore(0)

    def end(number: int, answer: Generation) -> None:
        found[number] = answer
        ended.release()

    for number, (request, rule) in enumerate(zip(requests, rules, strict=True)):
        prompt = live.prepare(with_pixels(live.generators[0], request), rule)
        live.submit(prompt, lambda token: None, partial(end, number))
    assert all(ended.acquire(timeout=patience) for _ in requests)
    return [found[number] for number in range(len(requests))]
