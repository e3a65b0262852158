"""The candidates that are nearest to a query by cosine similarity, ties in the order of the index."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from medcap.errors import UserError

# Similarities of float32 products differ by less than this between libraries and sizes of blocks.
_ROUNDING = 1e-5
_DECIMALS = 6
_BLOCK_BYTES = 128 * 2**20
_FAISS_QUERIES = 256
_POINTS_OF_CLUSTER = 39  # faiss warns of fewer
_CLUSTERING_STEPS = 5
_FEWEST_CLUSTERS = 16  # that are searched for a query


class Neighbours(Protocol):
    """Finds candidates near queries."""

    def nearest(self, queries: np.ndarray, depth: int) -> Iterator[np.ndarray]:
        """Yield, for each query of ``[q, d]``, about ``depth`` near candidates, best first."""
        ...


class MatrixNeighbours:
    """Multiply blocks of candidates with blocks of queries.

    Args:
        embeddings: ``[n, d]`` float32 of length 1; may be mapped from a file.
    """

    def __init__(self, embeddings: np.ndarray) -> None:
        self._embeddings = embeddings
        count, width = embeddings.shape
        self._block = max(1, _BLOCK_BYTES // (4 * width))
        self._together = max(1, _BLOCK_BYTES // (4 * count))

    def nearest(self, queries: np.ndarray, depth: int) -> Iterator[np.ndarray]:
        """Yield, for each query of ``[q, d]``, at least its ``depth`` nearest candidates, best first."""
        for start in range(0, len(queries), self._together):
            some = queries[start : start + self._together]
            for query, scores in zip(some, self._scores(some), strict=True):
                yield self._ordered(query, scores, depth)

    def _scores(self, queries: np.ndarray) -> np.ndarray:
        scores = np.empty((len(queries), len(self._embeddings)), dtype=np.float32)  # [q, n]
        for start in range(0, len(self._embeddings), self._block):
            block = self._embeddings[start : start + self._block]
            scores[:, start : start + len(block)] = queries @ block.T
        return scores

    def _ordered(self, query: np.ndarray, scores: np.ndarray, depth: int) -> np.ndarray:
        count = len(scores)
        if depth >= count:
            return in_order(np.arange(count), self._embeddings, query)
        last = np.partition(scores, count - depth)[count - depth]
        return in_order(np.flatnonzero(scores >= last - _ROUNDING), self._embeddings, query)


class FaissNeighbours:
    """Search only the clusters of candidates that are nearest to a query, by faiss, and now and then miss one.

    Clustering takes as long as a few thousand queries of :class:`MatrixNeighbours`, so it pays for many.

    Args:
        embeddings: ``[n, d]`` float32 of length 1.

    Raises:
        UserError: if faiss is not installed.
    """

    def __init__(self, embeddings: np.ndarray) -> None:
        faiss = import_faiss()
        self._embeddings = embeddings
        count, width = embeddings.shape
        clusters = max(1, min(round(4 * count**0.5), count // _POINTS_OF_CLUSTER))
        self._index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, clusters, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.niter = _CLUSTERING_STEPS
        self._index.cp.max_points_per_centroid = 2 * _POINTS_OF_CLUSTER
        self._index.nprobe = max(_FEWEST_CLUSTERS, clusters // 32)
        values = np.ascontiguousarray(embeddings)
        self._index.train(values)
        self._index.add(values)

    def nearest(self, queries: np.ndarray, depth: int) -> Iterator[np.ndarray]:
        """Yield, for each query of ``[q, d]``, up to ``depth`` near candidates, best first."""
        for start in range(0, len(queries), _FAISS_QUERIES):
            some = np.ascontiguousarray(queries[start : start + _FAISS_QUERIES])
            _, found = self._index.search(some, min(depth, len(self._embeddings)))
            for query, numbers in zip(some, found, strict=True):  # -1 where the clusters hold no more
                yield in_order(numbers[numbers >= 0], self._embeddings, query)


def import_faiss() -> Any:
    """Import faiss.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise UserError("--faiss needs faiss: pip install 'medcap[retrieve]', or leave --faiss out") from error


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
