"""Prompts that ask the same, and prompts that the same components answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medcap.generation.decoding.prefix_tree import Prompt, image_key


def distinct_prompts(prompts: Sequence[Prompt]) -> tuple[list[Prompt], dict[int, list[int]]]:
    """Prompts without repetitions, and for the index of each the indices of those that ask the same.

    Benchmarks ask with few words about many images, so what is asked without the image repeats itself.
    """
    first: dict[Any, Prompt] = {}
    same: dict[int, list[int]] = {}
    for prompt in prompts:
        candidates = tuple(candidate.tobytes() for candidate in prompt.candidates)
        images = tuple(map(image_key, prompt.images))
        asked = (prompt.tokens.tobytes(), images, prompt.regions)
        known = first.setdefault((asked, prompt.limit, candidates, *prompt.components), prompt)
        if known is not prompt:
            same.setdefault(known.index, []).append(prompt.index)
    return list(first.values()), same


def by_components(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Put prompts together that the same components answer."""
    found: dict[Any, list[Prompt]] = {}
    for prompt in prompts:
        found.setdefault(prompt.components, []).append(prompt)
    return list(found.values())
