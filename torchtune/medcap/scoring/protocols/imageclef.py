"""The caption scores of ImageCLEFmedical Caption that published packages compute: ROUGE-1 and BERTScore.

Source: the organisers' evaluator of 2026, taubsity/clef-caption-evaluation-2026 at 15c4091,
``caption_prediction/evaluator.py``. Its relevance is the mean of BERTScore, ROUGE-1 and an image-text similarity by
MedImageInsight, its factuality the mean of a comparison of UMLS concepts by MedCAT and of AlignScore. MedImageInsight's
weights, UMLS and AlignScore's checkpoint are in no package, and neither are these two scores here, nor its BLEURT.
"""

from __future__ import annotations

import re
import string
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from medcap.scoring.metrics import bertscore
from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.summary import check_answers, one_reference_notice, reasoning_notice, row_means
from medcap.scoring.question import Answer

_NUMBER = re.compile(r"\d+")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[a-z0-9]+")


class ImageClef(Protocol):
    """A caption against the first reference, both prepared as the evaluator prepares them; an empty one scores 0."""

    keys: ClassVar[tuple[str, ...]]

    @abstractmethod
    def values(self, captions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
        """Return the scores of each pair, under ``keys``.

        Args:
            captions: prepared, none of them empty before that.
            references: prepared.
        """

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score captions; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        asked = [answer for answer in answers if not answer.failed]
        values = iter(
            self.values(
                [prepared(answer.prediction) for answer in asked],
                [prepared(answer.question.references[0]) for answer in asked],
            )
            if asked
            else ()
        )
        rows = []
        for answer in answers:
            own = dict.fromkeys(self.keys, 0.0) if answer.failed else next(values)
            rows.append({"question_id": answer.question.id, **own, "correct": None, "value": own[self.headline]})
        scores, intervals = row_means(rows, {key: key for key in self.keys})
        notices = one_reference_notice(answers) + reasoning_notice(answers, published=True)
        return ProtocolScores(scores, intervals, rows, counts, notices)


class ImageClefRouge(ImageClef):
    """ROUGE-1's F measure (Lin, 2004), as google-research's ``rouge_score`` counts words, without stemming."""

    name = "imageclef_rouge"
    description = (
        "ImageCLEFmedical Caption's ROUGE-1: the F measure of single words in lower case, without punctuation and with"
        " 'number' for each number"
    )
    headline = "rouge1"
    keys = ("rouge1",)

    def values(self, captions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
        """See :meth:`ImageClef.values`."""
        return [{"rouge1": rouge1(*pair)} for pair in zip(captions, references, strict=True)]


class ImageClefBertScore(ImageClef):
    """BERTScore's F measure (Zhang et al., 2020, arXiv:1904.09675); all references together weigh the words."""

    name = "imageclef_bertscore"
    description = (
        f"ImageCLEFmedical Caption's BERTScore (F of {bertscore.MODEL}, inverse document frequencies of the references,"
        " not rescaled) of captions in lower case, without punctuation and with 'number' for each number"
    )
    headline = "bertscore"
    keys = ("bertscore", "bertscore_precision", "bertscore_recall")
    takes_minutes = True

    def check_ready(self) -> None:
        """See :meth:`Protocol.check_ready`."""
        bertscore.check_installed()

    def values(self, captions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
        """See :meth:`ImageClef.values`."""
        rows = bertscore.bert_scores(captions, references)
        return [dict(zip(self.keys, (f, precision, recall), strict=True)) for precision, recall, f in rows]


def prepared(caption: str) -> str:
    """Prepare a caption as the evaluator's ``preprocess_caption`` does.

    Example:
        >>> prepared("A 12.5-cm mass (arrow).")
        'a numbernumbercm mass arrow'
    """
    return _NUMBER.sub("number", caption.lower()).translate(_NO_PUNCTUATION)


def rouge1(caption: str, reference: str) -> float:
    """Return the F measure of the words that two texts share, 0..1; 0 where one has none.

    Args:
        caption: a prepared text; words are runs of a to z and digits.
        reference: likewise.
    """
    words, wanted = _WORD.findall(caption), _WORD.findall(reference)
    shared = (Counter(words) & Counter(wanted)).total()
    return 2.0 * shared / (len(words) + len(wanted)) if shared else 0.0
