"""Which blocks FlexAttention computes of packed rows, found on the host while the batch is made.

Documents and branches lie in one piece each, so the queries that attend to a key are those from its own position to one
last position. That position is all that a kernel must read for a key, and a block's number of allowed pairs is a sum of
overlaps. ``create_block_mask`` finds the same blocks from every pair, on the host and before the step's first kernel.
"""

from __future__ import annotations

import numpy as np

BLOCK = 128  # FlexAttention's own
# In numbers of 4 bytes: kernels read aligned pieces, and copy others first.
ALIGNMENT = 16


def flex_layout(document: np.ndarray, branch: np.ndarray, after: np.ndarray, prompt_prefix_length: int) -> np.ndarray:
    """Find what ``flex_mask`` needs; the mask is that of ``packed_attention_mask``.

    Args:
        document: ``[R, S]``; equal numbers of a row lie side by side, padding has -1.
        branch: ``[R, S]``; equal numbers of a document lie side by side, 0 first.
        after: ``[R, S]``, 1 where a token's document continues the prompt prefix, else 0.
        prompt_prefix_length: P.

    Returns:
        ``[n]`` int32.
    """
    last = _last_queries(document, branch)  # [R, S]
    allowed = _allowed_pairs(last, after, prompt_prefix_length)  # [R, Q, K]
    full = allowed == BLOCK * BLOCK
    partial = (allowed > 0) & ~full
    parts = [last, after]
    for blocks in (partial, full, partial.transpose(0, 2, 1), full.transpose(0, 2, 1)):
        # Those to compute come first, in their order.
        parts += [blocks.sum(2), np.argsort(~blocks, axis=2, kind="stable")]
    pieces = [part.astype(np.int32).ravel() for part in parts]
    return np.concatenate([np.pad(piece, (0, -len(piece) % ALIGNMENT)) for piece in pieces])


def padded_prefix(prompt_prefix_length: int) -> int:
    """Return how many keys stand before those of a row: the prompt prefix, filled up to whole blocks."""
    return -(-prompt_prefix_length // BLOCK) * BLOCK


def _last_queries(document: np.ndarray, branch: np.ndarray) -> np.ndarray:
    """Return the last query that attends to each key, ``[R, S]``: the end of its branch, or of its document."""
    document_ends = document[:, 1:] != document[:, :-1]  # [R, S - 1]
    branch_ends = document_ends | (branch[:, 1:] != branch[:, :-1])
    return np.where(branch == 0, _run_ends(document_ends), _run_ends(branch_ends))


def _run_ends(ends: np.ndarray) -> np.ndarray:
    """``[R, S - 1]`` whether a run ends at a position -> ``[R, S]`` the position where each one's run ends."""
    rows, last = ends.shape
    positions = np.where(ends, np.arange(last), last)
    positions = np.concatenate([positions, np.full((rows, 1), last)], 1)
    return np.minimum.accumulate(positions[:, ::-1], axis=1)[:, ::-1]


def _allowed_pairs(last: np.ndarray, after: np.ndarray, prompt_prefix_length: int) -> np.ndarray:
    """Return how many pairs of a query and a key are allowed in each block of both, ``[R, Q, K]``."""
    length = last.shape[1]
    blocks = -(-length // BLOCK)
    starts = np.arange(blocks) * BLOCK  # [Q]
    first = np.maximum(np.arange(length)[:, None], starts)  # [S, Q]
    final = np.minimum(last[:, :, None], starts + BLOCK - 1)  # [R, S, Q]
    of_keys = np.clip(final - first + 1, 0, None)
    own = np.add.reduceat(of_keys, starts, axis=1).transpose(0, 2, 1)  # [R, Q, Q]
    following = np.add.reduceat((after > 0).astype(np.int64), starts, axis=1)  # [R, Q]
    prefix_starts = np.arange(0, prompt_prefix_length, BLOCK)
    prefix_keys = np.minimum(prompt_prefix_length - prefix_starts, BLOCK)
    return np.concatenate([following[:, :, None] * prefix_keys, own], 2)
