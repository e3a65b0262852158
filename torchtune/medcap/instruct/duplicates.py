"""Near-duplicates among texts: MinHash finds candidates, their shared word triples decide."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from zlib import crc32

import numpy as np

_BANDS, _ROWS = 20, 4  # 20 bands of 4 of 80 hashes: at 0.8 a pair is missed once in 38,000, at 0.6 once in 16
_PRIME = np.uint64((1 << 61) - 1)
_WORDS = re.compile(r"\w+")
LOWEST_SIMILARITY = 0.5  # the bands miss 28 % of the pairs here, and more below


class NearDuplicates:
    """Finds the first earlier text that is nearly the same (Broder, "On the resemblance and containment", 1997).

    Two texts are as similar as the share of their triples of consecutive words that both have, without regard to case
    and punctuation (Jaccard). All sets of triples are kept, about 50 bytes a word.

    Args:
        similarity: texts at least this similar are duplicates, ``LOWEST_SIMILARITY`` to 1.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        generator = np.random.default_rng(0)
        self._factors = generator.integers(1, 1 << 28, (_BANDS * _ROWS, 1), dtype=np.uint64)
        self._shifts = generator.integers(0, 1 << 60, (_BANDS * _ROWS, 1), dtype=np.uint64)
        self._bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        self._held: list[tuple[str, frozenset[int]]] = []

    def add(self, name: str, text: str) -> tuple[str, float] | None:
        """Compare a text with all that were added before, and add it unless it is a duplicate.

        Args:
            name: what to call it.
            text: its words.

        Returns:
            The name of the most similar earlier text and the similarity; None where none is similar enough.
        """
        triples = _triples(text)
        keys = self._keys(triples)
        near: tuple[str, float] | None = None
        for number in sorted({number for key in keys for number in self._bands.get(key, ())}):
            other, held = self._held[number]
            similarity = _jaccard(triples, held)
            if similarity >= self._similarity and (near is None or similarity > near[1]):
                near = (other, similarity)
        if near is None:
            for key in keys:
                self._bands[key].append(len(self._held))
            self._held.append((name, triples))
        return near

    def _keys(self, triples: frozenset[int]) -> list[tuple[int, bytes]]:
        if not triples:
            return [(-1, b"")]  # texts without words are equal
        values = np.fromiter(triples, dtype=np.uint64, count=len(triples))[None]  # [1, triples]
        # crc32 has 32 bits and a factor 28: no product overflows.
        smallest = ((values * self._factors + self._shifts) % _PRIME).min(axis=1)  # [bands * rows]
        rows = smallest.reshape(_BANDS, _ROWS)
        return [(band, rows[band].tobytes()) for band in range(_BANDS)]


def _triples(text: str) -> frozenset[int]:
    words = _WORDS.findall(text.lower())
    # A text of one or two words is one unit.
    runs: Iterable[list[str]] = (words[start : start + 3] for start in range(max(1, len(words) - 2)))
    return frozenset(crc32(" ".join(run).encode("utf-8", "replace")) for run in runs) if words else frozenset()


def _jaccard(left: frozenset[int], right: frozenset[int]) -> float:
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared) if left or right else 1.0
