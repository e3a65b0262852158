"""medcap 2024's documented commands, with configurations whose values are others than its own."""

from __future__ import annotations

from collections.abc import Sequence

_DATASET = "dataset._component_=torchtune.datasets.chat_dataset"
_PACKED = "dataset.packed"


def with_unpacked_samples(words: Sequence[str]) -> list[str]:
    """Let ``batch_size`` count samples where a command names medcap 2024's dataset, which packs none.

    Args:
        words: ``key=value`` of a command line.

    Returns:
        The words, and ``dataset.packed=false`` unless they say something of it.
    """
    packed = any(word.partition("=")[0] == _PACKED for word in words)
    return [*words, f"{_PACKED}=false"] if _DATASET in words and not packed else list(words)
