"""Loaders for training data; each is a ``dataset`` component."""

from medcap.datasets.chat import chat_dataset

__all__ = ["chat_dataset"]
