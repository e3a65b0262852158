"""Loaders for training data; each is a ``dataset`` component."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # On first use, so that reading rows does not import torch.
    if name == "chat_dataset":
        from medcap.datasets.chat import chat_dataset

        return chat_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "chat_dataset"])
