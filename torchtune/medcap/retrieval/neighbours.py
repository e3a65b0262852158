"""The candidates that are nearest to a query by cosine similarity, ties in the order of the index."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np

from medcap.errors import UserError

# Similarities of float32 products differ by less than this between libraries and sizes of blocks.
_ROUNDING = 1e-5
_DECIMALS = 6
_BLOCK_BYTES = 64 * 2**20


class Neighbours(Protocol):
    """Finds candidates near queries."""

    def nearest(self, query: np.ndarray, depth: int) -> np.ndarray:
        """Return at least the ``depth`` candidates that are nearest to a query ``[d]``, best first."""
        ...


class MatrixNeighbours:
    """Multiply blocks of candidates with the query.

    Args:
        embeddings: ``[n, d]`` float32 of length 1; may be mapped from a file.
    """

    def __init__(self, embeddings: np.ndarray) -> None:
        self._embeddings = embeddings
        self._block = max(1, _BLOCK_BYTES // (4 * embeddings.shape[1]))

    def nearest(self, query: np.ndarray, depth: int) -> np.ndarray:
        """Return at least the ``depth`` candidates that are nearest to a query ``[d]``, best first."""
        count, block = len(self._embeddings), self._block
        scores = np.concatenate([self._embeddings[start : start + block] @ query for start in range(0, count, block)])
        if depth >= count:
            return in_order(np.arange(count), self._embeddings, query)
        last = np.partition(scores, count - depth)[count - depth]
        return in_order(np.flatnonzero(scores >= last - _ROUNDING), self._embeddings, query)


class FaissNeighbours:
    """Search by faiss's exact index of inner products; the same candidates as :class:`MatrixNeighbours`.

    Args:
        embeddings: ``[n, d]`` float32 of length 1.

    Raises:
        UserError: if faiss is not installed.
    """

    def __init__(self, embeddings: np.ndarray) -> None:
        try:
            faiss: Any = importlib.import_module("faiss")
        except ImportError as error:
            raise UserError("--faiss needs faiss: pip install 'medcap[retrieve]', or leave --faiss out") from error
        self._embeddings = embeddings
        self._index = faiss.IndexFlatIP(embeddings.shape[1])
        self._index.add(np.ascontiguousarray(embeddings))

    def nearest(self, query: np.ndarray, depth: int) -> np.ndarray:
        """Return at least the ``depth`` candidates that are nearest to a query ``[d]``, best first."""
        count = len(self._embeddings)
        asked = min(depth, count)
        while True:
            wanted = min(max(2 * asked, 16), count)
            scores, numbers = self._index.search(query[None], wanted)  # [1, wanted] each, best first
            # All that may tie with the last one are needed, so that their order decides and not the library.
            near = scores[0] >= scores[0][min(depth, count) - 1] - _ROUNDING
            if wanted == count or not near[-1]:
                return in_order(numbers[0][near], self._embeddings, query)
            asked = wanted


def in_order(numbers: np.ndarray, embeddings: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Put candidates in the order of their similarity to a query.

    Products of float32 depend on how many are computed at once, so those of a few candidates are computed anew in
    float64 and rounded; what is equal then stays in the order of the index.

    Args:
        numbers: ``[m]`` candidates.
        embeddings: ``[n, d]`` float32.
        query: ``[d]`` float32.

    Returns:
        ``[m]`` candidates, best first.
    """
    numbers = np.sort(numbers)
    products = embeddings[numbers].astype(np.float64) * query.astype(np.float64)  # [m, d]
    similarity = products.sum(axis=1).round(_DECIMALS)
    return numbers[np.argsort(-similarity, kind="stable")]
