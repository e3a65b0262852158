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
_SHARE = 0.4
# No part is smaller than this share of all, divided by the number of processes.
_SMALLEST = 1 / 16


def divide(
    requests: Sequence[Request | str], pending: Sequence[int], extra: Sequence[Any], processes: int, batch: int
) -> list[list[int]]:
    """Divide requests into parts.

    Args:
        requests: all of them; a text stands for a prompt of words alone.
        pending: indices of those that are asked.
        extra: for each request what is asked about beside it, such as candidates; None for nothing.
        processes: how many take parts.
        batch: requests that a process answers together. At the end of a part its batch runs empty, so parts are whole
            batches as long as much is left.

    Returns:
        The parts as indices, each in the order of ``pending``. Requests about the same images, or with the same words
        and no image, are in one part, unless they are more than a batch.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index in pending:
        groups.setdefault(_key(requests[index]), []).append(index)
    lengths = {index: _length(requests[index], extra[index]) for index in pending}
    # An image with very many questions is not left to one process.
    pieces = [members[start : start + batch] for members in groups.values() for start in range(0, len(members), batch)]
    pieces.sort(key=lambda members: -max(lengths[index] for index in members))
    costs = [sum(lengths[index] for index in members) + _IMAGE for members in pieces]
    smallest = max(1, min(batch, round(len(pending) * _SMALLEST / processes)))
    order = {index: position for position, index in enumerate(pending)}
    parts: list[list[int]] = []
    first, left = 0, sum(costs)
    while first < len(pieces):
        most = _most(pieces[first:], costs[first:], _SHARE * left / processes)
        most = max(smallest, most - most % batch if most > batch else most)
        part: list[int] = []
        while first < len(pieces) and (not part or len(part) + len(pieces[first]) <= most):
            part += pieces[first]
            left -= costs[first]
            first += 1
        parts.append(sorted(part, key=order.__getitem__))
    return parts


def _most(pieces: Sequence[Sequence[int]], costs: Sequence[int], share: float) -> int:
    """Return how many requests at the front have together no more than a share of the cost."""
    count = 0
    for members, cost in zip(pieces, costs, strict=True):
        share -= cost
        if share < 0:
            break
        count += len(members)
    return count


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
