"""Rows of documents and branches of random lengths, laid out as packing lays them out."""

from __future__ import annotations

import numpy as np


def random_rows(seed: int, rows: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The columns ``document``, ``branch`` and ``after_prompt_prefix``, ``[rows, length]`` int64, padding last."""
    source = np.random.default_rng(seed)
    document, branch, after = (np.full((rows, length), value) for value in (-1, 0, 0))
    for row in range(rows):
        position, end = 0, length - int(source.integers(0, length // 3))
        number = 0
        while position < end:
            follows = source.integers(0, 2)
            for piece in range(int(source.integers(1, 5))):
                stop = min(end, position + int(source.integers(1, length // 3)))
                document[row, position:stop] = number
                branch[row, position:stop] = piece
                after[row, position:stop] = follows
                position = stop
            number += 1
    return document, branch, after
