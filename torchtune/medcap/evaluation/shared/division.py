"""Divides questions into the parts that processes take from a queue: by image, the longest first, ever smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medcap.generation.request import Request

# Rough lengths in tokens, which only decide how large parts are: the queue evens out what they miss.
_CHARACTERS_A_TOKEN = 4
_IMAGE, _ANSWER = 256, 64
# A process takes this share of what is left, divided by the number of processes. One at a third of the others' speed
# then still ends with them.
_SHARE = 0.25
# No part is smaller than this share of all, divided by the number of processes: the end differs by one part at most.
_SMALLEST = 1 / 16


def divide(
    requests: Sequence[Request | str], pending: Sequence[int], extra: Sequence[Any], processes: int, least: int
) -> list[list[int]]:
    """Divide requests into parts.

    Args:
        requests: all of them; a text stands for a prompt of words alone.
        pending: indices of those that are asked.
        extra: for each request what is asked about beside it, such as candidates; None for nothing.
        processes: how many take parts.
        least: fewest requests of a part where there are many.

    Returns:
        The parts as indices, each in the order of ``pending``. Requests about the same images, or with the same words
        and no image, are in one part, unless they are more than ``least``.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index in pending:
        groups.setdefault(_key(requests[index]), []).append(index)
    lengths = {index: _length(requests[index], extra[index]) for index in pending}
    smallest = max(1, min(least, round(len(pending) * _SMALLEST / processes)))
    # An image with very many questions is not left to one process.
    pieces = [members[start : start + least] for members in groups.values() for start in range(0, len(members), least)]
    pieces.sort(key=lambda members: -max(lengths[index] for index in members))
    costs = [sum(lengths[index] for index in members) + _IMAGE for members in pieces]
    left = sum(costs)
    parts: list[list[int]] = []
    part: list[int] = []
    cost = 0
    for members, own in zip(pieces, costs, strict=True):
        part += members
        cost += own
        if len(part) >= smallest and cost >= _SHARE * left / processes:
            parts.append(part)
            left, part, cost = left - cost, [], 0
    if part:
        parts.append(part)
    order = {index: position for position, index in enumerate(pending)}
    return [sorted(part, key=order.__getitem__) for part in parts]


def _key(request: Request | str) -> tuple[str, ...]:
    """Return what requests must share to be computed together: their images, or else all their words."""
    if isinstance(request, str):
        return ("", request)
    parts = [part for message in request.messages for part in message.content]
    images = tuple(str(part["content"]) for part in parts if part["type"] == "image")
    return images or ("", *(str(part["content"]) for part in parts))


def _length(request: Request | str, extra: Any) -> int:
    """Return about how many tokens a request and its answer have, without its images."""
    if isinstance(request, str):
        return _ANSWER + len(request) // _CHARACTERS_A_TOKEN
    texts = [part["content"] for message in request.messages for part in message.content if part["type"] == "text"]
    candidates = [text for text in extra if isinstance(text, str)] if isinstance(extra, list | tuple) else []
    return _ANSWER + sum(map(len, (*texts, *candidates))) // _CHARACTERS_A_TOKEN
