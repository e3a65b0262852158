import sys
import types

import numpy as np
import pytest

from medcap.errors import UserError
from medcap.retrieval import neighbours
from medcap.retrieval.neighbours import FaissNeighbours, MatrixNeighbours


class FlatIP:
    """What is used of faiss's ``IndexFlatIP``; of ties the last comes first, which no caller may rely on."""

    def __init__(self, width):
        self.width, self.calls = width, []

    def add(self, vectors):
        assert vectors.dtype == np.float32 and vectors.shape[1] == self.width
        self.vectors = vectors

    def search(self, queries, count):
        self.calls.append(count)
        scores = queries @ self.vectors.T
        order = np.argsort(-scores[:, ::-1], axis=1, kind="stable")[:, :count]
        numbers = len(self.vectors) - 1 - order
        return np.take_along_axis(scores, numbers, axis=1), numbers


@pytest.fixture(params=["matrix", "stand-in", "faiss"])
def find(request, monkeypatch):
    if request.param == "matrix":
        return MatrixNeighbours
    if request.param == "faiss":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setitem(sys.modules, "faiss", types.SimpleNamespace(IndexFlatIP=FlatIP))
    return FaissNeighbours


def unit(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def test_the_nearest_are_those_of_a_plain_search(find, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", 4 * 16 * 7)  # seven candidates at a time
    generator = np.random.default_rng(0)
    embeddings, queries = unit(generator.normal(size=(100, 16))), unit(generator.normal(size=(5, 16)))
    expected = [sorted(range(100), key=lambda number: -float(embeddings[number] @ query)) for query in queries]
    found = find(embeddings)
    assert [near[:6].tolist() for near in found.nearest(queries, 6)] == [order[:6] for order in expected]
    assert [near.tolist() for near in found.nearest(queries, 1000)] == expected


def test_ties_are_in_the_order_of_the_index(find):
    near, far = [0.6, 0.8, 0.0], [1.0, 0.0, 0.0]
    embeddings = np.array([far, near, far, near, far, *[near] * 40], dtype=np.float32)
    query = np.array([[0.0, 1.0, 0.0]], dtype=np.float32)
    # All that tie with the last one are there, so that whoever leaves some of them out finds the next.
    assert next(find(embeddings).nearest(query, 2)).tolist() == [1, 3, *range(5, 45)]
    assert next(find(embeddings).nearest(query, 43)).tolist() == [1, 3, *range(5, 45), 0, 2, 4]


def test_what_differs_by_rounding_alone_is_a_tie(find):
    embeddings = np.array([[0.6, 0.8], [0.6 + 1e-7, 0.8 - 1e-7], [0.6 - 1e-7, 0.8 + 1e-7]], dtype=np.float32)
    query = np.array([[0.0, 1.0]], dtype=np.float32)
    assert next(find(embeddings).nearest(query, 1)).tolist() == [0, 1, 2]


def test_without_faiss_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"^--faiss needs faiss: pip install 'medcap\[retrieve\]', or leave --faiss"):
        FaissNeighbours(np.zeros((1, 2), dtype=np.float32))
