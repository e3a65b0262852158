"""The COCO caption metrics (BLEU-1..4, METEOR, ROUGE-L, CIDEr, SPICE), equal to pycocoevalcap's.

Two differences on degenerate text: an empty caption scores 0 also where the reference has no words left (there:
ROUGE-L 1), and a reference is not split in two at METEOR's field mark ``|||``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from medcap.errors import UserError
from medcap.scoring.metrics import java_scorers

BLEU_ORDERS = 4
_MOST_FAILURES = 5  # rows that METEOR may fail on before it is given up: each costs a new start


@dataclass(frozen=True)
class CaptionScores:
    """Scores of a whole set and of each row.

    Attributes:
        scores: name -> score of the set, in medcap 2024's order: Bleu_1..Bleu_4, METEOR, ROUGE_L, CIDEr (SPICE).
        rows: name -> one score a row. The set's BLEU and METEOR come from summed counts, so they are not the mean
            of the rows; ROUGE_L and CIDEr are.
        bleu_counts: [n, 10] float64: for each row its matching n-grams (4), its n-grams (4), its length, and the
            length of the closest reference. Sums of it give the set's BLEU, see :func:`bleu_of_sums`.
        notices: what a reader of the scores must know, one line each.
        failures: rows that count as empty captions for METEOR -> why its Java process ended.
    """

    scores: dict[str, float]
    rows: dict[str, list[float]]
    bleu_counts: np.ndarray
    notices: list[str] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)


def caption_metrics(predictions: list[str], references: list[list[str]]) -> CaptionScores:
    """Score captions as the COCO caption evaluation does (Chen et al., 2015).

    Args:
        predictions: one caption a row; an empty one scores 0 and stays in every denominator.
        references: at least one caption a row.

    Returns:
        Scores of the set and of each row. SPICE is in it only where its language models are installed. A row that
        METEOR fails on, such as a caption of 12,000 words, counts there as an empty caption.

    Raises:
        RowFailure: if METEOR fails on many rows; it has the last one.
        UserError: if Java cannot be started.
        ValueError: if there are no rows, a row has no reference, or the lengths differ.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} rows of references")
    if not predictions:
        raise ValueError("no rows to score")
    for index, texts in enumerate(references):
        if not texts:
            raise ValueError(f"row {index} has no reference")

    hypotheses, tokenized_references = _tokenize(predictions, references)
    scores: dict[str, float] = {}
    rows: dict[str, list[float]] = {}

    bleu, bleu_rows, bleu_counts = _bleu(hypotheses, tokenized_references)
    for order in range(BLEU_ORDERS):
        scores[f"Bleu_{order + 1}"], rows[f"Bleu_{order + 1}"] = bleu[order], bleu_rows[order]
    (scores["METEOR"], rows["METEOR"]), failures = _meteor(hypotheses, tokenized_references)
    scores["ROUGE_L"], rows["ROUGE_L"] = _rouge(hypotheses, tokenized_references)
    scores["CIDEr"], rows["CIDEr"] = _cider(hypotheses, tokenized_references)

    notices = []
    if len(predictions) == 1:
        notices.append("CIDEr is 0 by its definition when there is only one row")
    if java_scorers.spice_present():
        try:
            scores["SPICE"], rows["SPICE"] = java_scorers.spice(hypotheses, tokenized_references)
        except UserError as error:
            notices.append(f"SPICE is absent: {error}")
    else:
        notices.append(
            "SPICE is absent: stanford-corenlp-3.6.0.jar and its -models.jar are not in pycocoevalcap/spice/lib"
        )
    return CaptionScores(scores, rows, bleu_counts, notices, failures)


def bleu_of_sums(sums: np.ndarray, order: int) -> np.ndarray:
    """Corpus BLEU from summed counts, with pycocoevalcap's smoothing constants.

    Args:
        sums: [b, 10], each row a sum over rows of ``CaptionScores.bleu_counts``.
        order: longest n-gram, 1 to 4.

    Returns:
        [b] scores.
    """
    matches, counts = sums[:, :order], sums[:, BLEU_ORDERS : BLEU_ORDERS + order]  # [b, order]
    score = np.prod((matches + 1e-15) / (counts + 1e-9), axis=1) ** (1.0 / order)  # [b]
    ratio = (sums[:, -2] + 1e-15) / (sums[:, -1] + 1e-9)
    # Without the minimum the exponent of an all-empty sample overflows.
    return score * np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))


def _tokenize(predictions: list[str], references: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    flat = java_scorers.ptb_tokenize(predictions + [text for texts in references for text in texts])
    hypotheses, rest = flat[: len(predictions)], iter(flat[len(predictions) :])
    return hypotheses, [[next(rest) for _ in texts] for texts in references]


def _meteor(hypotheses: list[str], references: list[list[str]]) -> tuple[tuple[float, list[float]], dict[int, str]]:
    """METEOR's scores with the rows that it fails on as empty captions, and the reasons of these."""
    failures: dict[int, str] = {}
    scored = list(hypotheses)
    for start in range(1 + _MOST_FAILURES):
        try:
            return java_scorers.meteor(scored, references), failures
        except java_scorers.RowFailure as failure:
            if not scored[failure.row] or start == _MOST_FAILURES:
                raise
            rows = [failure.row]
            if "OutOfMemory" in failure.reason:  # a longer caption needs no less memory
                rows += [row for row, text in enumerate(scored) if len(text) >= len(scored[failure.row])]
            failures |= dict.fromkeys(rows, failure.reason)
            scored = ["" if row in failures else text for row, text in enumerate(scored)]
    raise AssertionError("the last start either scores or raises")


def _bleu(hypotheses: list[str], references: list[list[str]]) -> tuple[list[float], list[list[float]], np.ndarray]:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=BLEU_ORDERS)
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        scorer += (hypothesis, texts)
    scores, rows = scorer.compute_score(option="closest", verbose=0)
    counts = []
    for row in scorer.ctest:
        length = row["testlen"]
        closest = min((abs(reference - length), reference) for reference in row["reflen"])[1]
        counts.append([*row["correct"], *row["guess"], length, closest])
    return [float(score) for score in scores], [[float(x) for x in row] for row in rows], np.array(counts, float)


def _rouge(hypotheses: list[str], references: list[list[str]]) -> tuple[float, list[float]]:
    from pycocoevalcap.rouge.rouge import Rouge

    scorer = Rouge()
    rows = [
        float(scorer.calc_score([text], texts)) if text else 0.0
        for text, texts in zip(hypotheses, references, strict=True)
    ]
    return float(np.mean(rows)), rows


def _cider(hypotheses: list[str], references: list[list[str]]) -> tuple[float, list[float]]:
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    scorer = CiderScorer(n=4, sigma=6.0)
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        scorer += (hypothesis, texts)
    score, rows = scorer.compute_score()
    return float(score), [float(row) for row in rows]
