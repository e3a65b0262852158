import sys
import types

import numpy as np
import pytest

from medcap.errors import UserError
from medcap.retrieval import neighbours
from medcap.retrieval.neighbours import FaissNeighbours, MatrixNeighbours


def unit(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def test_the_nearest_are_those_of_a_plain_search(monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", 4 * 16 * 7)  # seven candidates at a time
    generator = np.random.default_rng(0)
    embeddings, queries = unit(generator.normal(size=(100, 16))), unit(generator.normal(size=(5, 16)))
    expected = [sorted(range(100), key=lambda number: -float(embeddings[number] @ query)) for query in queries]
    found = MatrixNeighbours(embeddings)
    assert [near[:6].tolist() for near in found.nearest(queries, 6)] == [order[:6] for order in expected]
    assert [near.tolist() for near in found.nearest(queries, 1000)] == expected


def test_ties_are_in_the_order_of_the_index():
    near, far = [0.6, 0.8, 0.0], [1.0, 0.0, 0.0]
    embeddings = np.array([far, near, far, near, far, *[near] * 40], dtype=np.float32)
    query = np.array([[0.0, 1.0, 0.0]], dtype=np.float32)
    # All that tie with the last one are there, so that whoever leaves some of them out finds the next.
    assert next(MatrixNeighbours(embeddings).nearest(query, 2)).tolist() == [1, 3, *range(5, 45)]
    assert next(MatrixNeighbours(embeddings).nearest(query, 43)).tolist() == [1, 3, *range(5, 45), 0, 2, 4]


def test_what_differs_by_rounding_alone_is_a_tie():
    embeddings = np.array([[0.6, 0.8], [0.6 + 1e-7, 0.8 - 1e-7], [0.6 - 1e-7, 0.8 + 1e-7]], dtype=np.float32)
    query = np.array([[0.0, 1.0]], dtype=np.float32)
    assert next(MatrixNeighbours(embeddings).nearest(query, 1)).tolist() == [0, 1, 2]


class Clusters:
    """Stand-in for faiss's index of clusters: finds no more than five candidates, in no order."""

    def __init__(self, quantizer, width, clusters, metric):
        assert (quantizer, metric) == (width, "product")
        self.clusters, self.cp = clusters, types.SimpleNamespace()

    def train(self, vectors):
        assert vectors.dtype == np.float32 and len(vectors) >= 39 * self.clusters

    def add(self, vectors):
        self.vectors = vectors

    def search(self, queries, count):
        best = np.argsort(-(queries @ self.vectors.T), axis=1)[:, :5]
        numbers = np.full((len(queries), count), -1)
        numbers[:, : min(5, count)] = best[:, ::-1][:, :count]
        return None, numbers


def test_what_faiss_finds_is_put_in_order(monkeypatch):
    stand_in = types.SimpleNamespace(IndexIVFFlat=Clusters, IndexFlatIP=int, METRIC_INNER_PRODUCT="product")
    monkeypatch.setitem(sys.modules, "faiss", stand_in)
    generator = np.random.default_rng(1)
    embeddings, queries = unit(generator.normal(size=(300, 8))), unit(generator.normal(size=(3, 8)))
    exact = [near[:5].tolist() for near in MatrixNeighbours(embeddings).nearest(queries, 5)]
    assert [near.tolist() for near in FaissNeighbours(embeddings).nearest(queries, 11)] == exact


def test_faiss_finds_nearly_all_of_the_nearest():
    pytest.importorskip("faiss")
    generator = np.random.default_rng(2)
    embeddings = unit(np.repeat(generator.normal(size=(40, 16)), 100, axis=0) + generator.normal(size=(4000, 16)) / 3)
    queries = embeddings[::80]
    exact = [set(near[:3].tolist()) for near in MatrixNeighbours(embeddings).nearest(queries, 3)]
    found = [set(near[:3].tolist()) for near in FaissNeighbours(embeddings).nearest(queries, 3)]
    assert sum(len(a & b) for a, b in zip(exact, found, strict=True)) >= 0.95 * 3 * len(queries)
    assert all(number in near for number, near in zip(range(0, 4000, 80), found, strict=True))


def test_without_faiss_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"^--faiss needs faiss: pip install 'medcap\[retrieve\]', or leave --faiss"):
        FaissNeighbours(np.zeros((1, 2), dtype=np.float32))
