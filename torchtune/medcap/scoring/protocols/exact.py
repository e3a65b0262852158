"""The strict protocol ``exact``: an answer is right when it equals a reference after a light normalisation."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence

from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.summary import check_answers, reasoning_notice, row_means
from medcap.scoring.question import Answer
from medcap.scoring.replies.final_reply import final_reply
from medcap.scoring.replies.numbers import plain_number, same_number

_QUOTES = (('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"), ("‘", "’"), ("«", "»"))


class Exact(Protocol):
    """Equality with any reference, and the word F1 against the best one."""

    name = "exact"
    description = (
        "right when answer and reference are equal after lower-casing, joining white space, and dropping surrounding"
        " quotes and one trailing full stop, or are the same number (2 and 2.0); a model's reasoning is taken off"
        " first; an empty answer is wrong and is counted"
    )
    headline = "accuracy"

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score answers; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        rows = []
        for answer in answers:
            correct = exact_match(answer.prediction, answer.question.references)
            rows.append(
                {
                    "question_id": answer.question.id,
                    "accuracy": float(correct),
                    "token_f1": token_f1(answer.prediction, answer.question.references),
                    "correct": correct,
                    "value": float(correct),
                }
            )
        scores, intervals = row_means(rows, {"accuracy": "accuracy", "token_f1": "token_f1"})
        return ProtocolScores(scores, intervals, rows, counts, reasoning_notice(answers))


def normalize(text: str) -> str:
    """Bring an answer to the form that is compared.

    Args:
        text: a generated answer or a reference.

    Returns:
        Lower case, white space joined to single spaces, without surrounding quotes and one trailing full stop.
    """
    text = _unquote(" ".join(text.lower().split()))
    if text.endswith("."):
        text = _unquote(text[:-1].rstrip())
    return text


def _unquote(text: str) -> str:
    for opening, closing in _QUOTES:
        if len(text) >= 2 and text.startswith(opening) and text.endswith(closing):
            return text[1:-1].strip()
    return text


def exact_match(prediction: str, references: Sequence[str]) -> bool:
    """Return whether an answer equals any of the references.

    Args:
        prediction: the generated answer, of which the final reply counts; one without any character left after
            normalisation is wrong.
        references: accepted answers.

    Returns:
        True when right.
    """
    answer = normalize(final_reply(prediction))
    accepted = [normalize(reference) for reference in references]
    return bool(answer) and any(answer == reference or same_number(answer, reference) for reference in accepted)


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of word precision and recall against the best reference.

    Words are split at white space after :func:`normalize` and lose punctuation at their edges; 2 and 2.0 are one word.

    Args:
        prediction: the generated answer, of which the final reply counts.
        references: accepted answers.

    Returns:
        0..1; 0 for an empty answer.
    """
    words = _words(final_reply(prediction))
    return max((_overlap_f1(words, _words(reference)) for reference in references), default=0.0)


def _words(text: str) -> list[str]:
    stripped = (word.strip(string.punctuation) for word in normalize(text).split())
    return [plain_number(word) for word in stripped if word]


def _overlap_f1(words: list[str], reference: list[str]) -> float:
    common = (Counter(words) & Counter(reference)).total()
    return 2.0 * common / (len(words) + len(reference)) if common else 0.0
