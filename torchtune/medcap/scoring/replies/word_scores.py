"""LLaVA-Med's word measures: its normalisation, overlap scores, BLEU, and retrieval of a candidate answer.

Source: microsoft/LLaVA-Med v1.0.0, ``llava/eval/eval_metrics/glossary.py`` and ``evaluate_metrics.py`` (from the VQA
evaluation), and ``llava/eval/run_eval.py``. Everything here equals it on any text, its quirks included.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from medcap.scoring.replies.contractions import CONTRACTIONS

# Names of what `word_scores` returns. "exact_match" is the published name of a precision over distinct words.
WORD_SCORES = ("exact_match", "precision", "recall", "f1", "bleu", "bleu_1", "bleu_2", "bleu_3")
_PUNCTUATION = re.compile(r'[;/\[\]"{}()=+\\_\-><@`,?!]')
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
# The published code hands re.UNICODE, which is 32, to the argument that counts replacements.
_FULL_STOPS_REMOVED = 32
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBER_WORDS)}}
_ARTICLES = frozenset(("a", "an", "the"))
# Each of the numbered ones weighs a single order, it is not cumulative.
_BLEU_WEIGHTS = [(0.25, 0.25, 0.25, 0.25), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)]
_REMEMBERED = 1 << 17


@lru_cache(maxsize=_REMEMBERED)
def normalize_word(text: str) -> str:
    """Normalise an answer as the VQA evaluation does (``normalize_word``, glossary.py:168-190).

    A punctuation mark goes if it touches a space somewhere in the text, or if the text has a comma between digits;
    else it becomes a space. Full stops before anything but a digit go, the first 32 of them. Lower case; number words
    up to ten become digits, articles go, contractions get their apostrophe, commas that are left go.

    Args:
        text: an answer. The published evaluators lower-case it first.

    Returns:
        Its words, joined by single spaces.
    """
    marks = set(_PUNCTUATION.findall(text))
    if marks:
        delete_all = "," in marks and _DIGIT_COMMA_DIGIT.search(text) is not None
        deleted = {mark for mark in marks if delete_all or f"{mark} " in text or f" {mark}" in text}
        text = text.translate({ord(mark): None if mark in deleted else " " for mark in marks})
    if "." in text:
        text = _FULL_STOP.sub("", text, count=_FULL_STOPS_REMOVED)
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES).replace(",", "")


def normalized(text: str) -> str:
    """Return an answer or reference as the published evaluators compare it: lower-cased and normalised once."""
    return normalize_word(text.lower())


@lru_cache(maxsize=_REMEMBERED)
def overlap(prediction: str, reference: str) -> tuple[float, float, float, float]:
    """Overlap of words (``calculate_exactmatch`` and ``calculate_f1score``, evaluate_metrics.py).

    Both texts are normalised here once more, as the published code does.

    Args:
        prediction: prediction from :func:`normalized`.
        reference: reference from :func:`normalized`.

    Returns:
        exact match (distinct words in both / words of the prediction), precision, recall (both weigh a common word by
        its count in the prediction) and their harmonic mean; 0..1, all 0 where no word is common.
    """
    predicted = Counter(normalize_word(prediction).lower().split())
    wanted = Counter(normalize_word(reference).lower().split())
    common = predicted.keys() & wanted.keys()
    if not common:
        return 0.0, 0.0, 0.0, 0.0
    total = predicted.total()
    found = sum(predicted[word] for word in common)
    missed = sum(count for word, count in wanted.items() if word not in common)
    precision, recall = found / total, found / (found + missed)
    return len(common) / total, precision, recall, 2 * precision * recall / (precision + recall)


@lru_cache(maxsize=_REMEMBERED)
def word_scores(prediction: str, reference: str) -> tuple[float, ...]:
    """All of ``WORD_SCORES`` of one answer.

    Args:
        prediction: prediction from :func:`normalized`.
        reference: reference from :func:`normalized`.

    Returns:
        A value for each of ``WORD_SCORES``, 0..1.
    """
    return (*overlap(prediction, reference), *_bleu(prediction.lower().split(), reference.lower().split()))


def _bleu(prediction: list[str], reference: list[str]) -> list[float]:
    """NLTK's sentence BLEU against one reference without smoothing: over orders 1 to 4, then of 1, 2 and 3 alone."""
    if set(prediction).isdisjoint(reference):
        return [0.0] * len(_BLEU_WEIGHTS)
    from nltk.translate.bleu_score import sentence_bleu

    scores: Any = sentence_bleu([reference], prediction, _BLEU_WEIGHTS, _unsmoothed)
    return [float(score) for score in scores]


def _unsmoothed(precisions: Sequence[Any], **_: object) -> list[Any]:
    # NLTK's own method0 does this and warns at every short answer.
    return [precision if precision.numerator else sys.float_info.min for precision in precisions]


class CandidateIndex:
    """Finds the candidate answer that a prediction names (``calculate_appearance_with_normalization``).

    The nearest candidate is the first one with the highest share of its distinct words in the prediction. Where none
    shares a word that is the first candidate of all.

    Args:
        candidates: answers as they are, at least one, in their order.

    Raises:
        ValueError: if there is none.

    Example:
        >>> CandidateIndex(["left lung", "right lung"]).nearest("the right lung")
        'right lung'
    """

    def __init__(self, candidates: Sequence[str]) -> None:
        if not candidates:
            raise ValueError("no candidates")
        # Equal texts have the same score, and the first of them wins.
        self._texts = list(dict.fromkeys(normalize_word(candidate) for candidate in candidates))
        words = [set(text.lower().split()) for text in self._texts]
        self._sizes = np.array([max(1, len(distinct)) for distinct in words])  # [c]
        holders: dict[str, list[int]] = {}
        for index, distinct in enumerate(words):
            for word in distinct:
                holders.setdefault(word, []).append(index)
        self._holders = {word: np.array(indices) for word, indices in holders.items()}
        self._known: dict[str, str] = {}

    def nearest(self, prediction: str) -> str:
        """Return the nearest candidate.

        Args:
            prediction: normalised as often as the caller's rule does; the published rules do it twice.

        Returns:
            The candidate's text, normalised once.
        """
        if prediction not in self._known:
            self._known[prediction] = self._search(prediction)
        return self._known[prediction]

    def _search(self, prediction: str) -> str:
        found = [self._holders[word] for word in set(prediction.lower().split()) if word in self._holders]
        if not found:
            return self._texts[0]
        counts = np.bincount(np.concatenate(found), minlength=len(self._texts))  # [c]
        return self._texts[int((counts / self._sizes).argmax())]
