"""Several samples in one row, an image's questions behind one copy of the image.

A *document* is a shared prefix (branch 0: the beginning of the text with the image) and one branch for each sample
that continues it. A token attends to the prefix of its own document and to its own branch, so the branches do not
see each other, and the loss and its gradient are exactly the sums over the separate samples.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from medcap.modules.label_loss import IGNORE_INDEX

PADDING_DOCUMENT = -1


@dataclass(frozen=True)
class Sample:
    """A tokenized record.

    Attributes:
        tokens: ``[n]`` int32.
        labels: ``[n]`` int32, -100 where nothing is learnt.
        images: the images of its runs of placeholders, in order.
        images_end: the position behind its last image token, 0 without images.
        name: how messages to the user call it.
    """

    tokens: np.ndarray
    labels: np.ndarray
    images: tuple[Hashable, ...]
    images_end: int
    name: str


@dataclass(frozen=True)
class Document:
    """Samples (by their index) that share their first ``prefix`` tokens, which hold all their images."""

    samples: tuple[int, ...]
    prefix: int
    length: int


@dataclass(frozen=True)
class PackedRow:
    """One row of a batch; all arrays ``[S]`` int64.

    Attributes:
        tokens: ids, padded at the end.
        labels: -100 except on the tokens to learn; ``labels[i]`` is predicted at position i - 1.
        input_pos: the position of each token in its sample.
        document: which document a token belongs to, -1 for padding.
        branch: 0 in the shared prefix, 1, 2, ... in the branches.
        images: the images of the row's runs of placeholders, in order.
    """

    tokens: np.ndarray
    labels: np.ndarray
    input_pos: np.ndarray
    document: np.ndarray
    branch: np.ndarray
    images: tuple[Hashable, ...]


def make_documents(
    samples: Sequence[Sample], order: Sequence[int], row_length: int, share: bool = True
) -> list[Document]:
    """Group the samples that show the same images, so that each image is computed once.

    Args:
        samples: all samples.
        order: the samples to use, in the order wanted.
        row_length: no document gets longer; the questions of one image are spread over as many as needed.
        share: False makes one document of every sample.

    Returns:
        Documents in the order of their first sample.

    Raises:
        ValueError: if a single sample is longer than ``row_length``.
    """
    groups: dict[Hashable, list[int]] = {}
    for index in order:
        if len(samples[index].tokens) > row_length:
            raise ValueError(f"{samples[index].name} has {len(samples[index].tokens)} tokens, a row {row_length}")
        key = samples[index].images if share and samples[index].images else ("sample", index)
        groups.setdefault(key, []).append(index)
    return [document for group in groups.values() for document in _split_group(samples, group, row_length)]


def _split_group(samples: Sequence[Sample], group: list[int], row_length: int) -> list[Document]:
    documents: list[Document] = []
    members, prefix, length = [group[0]], len(samples[group[0]].tokens), len(samples[group[0]].tokens)
    for index in group[1:]:
        sample = samples[index]
        first = samples[members[0]]
        shared = min(_shared_prefix(first, sample), prefix)
        total = shared + sum(len(samples[member].tokens) - shared for member in [*members, index])
        if shared >= max(first.images_end, sample.images_end) and total <= row_length:
            members.append(index)
            prefix, length = shared, total
        else:
            documents.append(Document(tuple(members), prefix, length))
            members, prefix, length = [index], len(sample.tokens), len(sample.tokens)
    documents.append(Document(tuple(members), prefix, length))
    return documents


def _shared_prefix(first: Sample, second: Sample) -> int:
    """How many tokens two samples have in common, ending before the token that predicts either's first label."""
    limit = min(_first_label(first), _first_label(second)) - 1
    different = np.flatnonzero(first.tokens[:limit] != second.tokens[:limit])
    return int(different[0]) if len(different) else max(limit, 0)


def _first_label(sample: Sample) -> int:
    return int(np.argmax(sample.labels != IGNORE_INDEX))


def pack_documents(lengths: Sequence[int], row_length: int, window: int = 1024) -> list[list[int]]:
    """Fill rows with documents: best fit, longest first, within a window.

    The window keeps the shuffled order roughly as it is.

    Args:
        lengths: tokens of each document.
        row_length: tokens of a row.
        window: documents that are sorted together.

    Returns:
        For each row the indices of its documents, every index once.
    """
    rows: list[list[int]] = []
    for start in range(0, len(lengths), window):
        open_rows: list[tuple[int, int]] = []  # (tokens left, row), sorted
        chosen = sorted(range(start, min(start + window, len(lengths))), key=lambda index: -lengths[index])
        for index in chosen:
            place = bisect_left(open_rows, (lengths[index], -1))
            if place < len(open_rows):
                space, row = open_rows.pop(place)
            else:
                space, row = row_length, len(rows)
                rows.append([])
            rows[row].append(index)
            insort(open_rows, (space - lengths[index], row))
    return rows


def pack_row(samples: Sequence[Sample], documents: Sequence[Document], row_length: int, pad_id: int) -> PackedRow:
    """Lay documents out in one row.

    Args:
        samples: all samples.
        documents: the row's documents; together not longer than ``row_length``.
        row_length: S.
        pad_id: the id behind the last document.

    Returns:
        The row.
    """
    tokens = np.full(row_length, pad_id, dtype=np.int64)
    labels = np.full(row_length, IGNORE_INDEX, dtype=np.int64)
    input_pos = np.zeros(row_length, dtype=np.int64)
    document_ids = np.full(row_length, PADDING_DOCUMENT, dtype=np.int64)
    branches = np.zeros(row_length, dtype=np.int64)
    images: list[Hashable] = []
    position = 0
    for number, document in enumerate(documents):
        first = samples[document.samples[0]]
        images += first.images
        pieces = [(first, 0, document.prefix, 0)]
        pieces += [
            (samples[index], document.prefix, len(samples[index].tokens), branch)
            for branch, index in enumerate(document.samples, start=1)
        ]
        for sample, start, stop, branch in pieces:
            end = position + stop - start
            tokens[position:end] = sample.tokens[start:stop]
            labels[position:end] = sample.labels[start:stop]
            input_pos[position:end] = np.arange(start, stop)
            document_ids[position:end] = number
            branches[position:end] = branch
            position = end
    return PackedRow(tokens, labels, input_pos, document_ids, branches, tuple(images))
