"""OmniMedVQA's question-answering score: the option that is most similar to the answer by difflib."""

from __future__ import annotations

from difflib import SequenceMatcher
from functools import lru_cache

from medcap.scoring.protocols.base import Prompt
from medcap.scoring.protocols.multiple_choice import MultipleChoice
from medcap.scoring.question import Answer, Question


class OmniMedVqaQa(MultipleChoice):
    """OmniMedVQA's question-answering score.

    Source: OpenGVLab/Multi-Modality-Arena, ``MedicalEval/Question-answering_Score/utils/medicalqa.py`` (:18-66), which
    counts answers without any similarity as wrong but drops rows whose generation failed; here those are counted.
    """

    name = "omnimedvqa_qa"
    prompt = Prompt.LISTED_OPTIONS
    description = (
        "OmniMedVQA's question answering: the option with the highest difflib ratio to the answer is chosen, the first"
        " of equals; no similarity to any option is wrong"
    )
    headline = over_rows = "accuracy"
    over_modalities = "accuracy_by_modality"
    published = True
    takes_letters = False

    def is_right(self, option: str, question: Question) -> bool:
        """Return whether it is the same text; see :class:`MultipleChoice`."""
        return option == question.references[0]

    def choose(self, answer: Answer) -> tuple[str | None, bool]:
        """Take the most similar option; see :class:`MultipleChoice`."""
        options = answer.question.options
        chosen = most_similar(answer.prediction, options)
        if chosen is None:
            return None, False
        return options[chosen], self.is_right(options[chosen], answer.question)


@lru_cache(maxsize=1 << 17)
def most_similar(prediction: str, options: tuple[str, ...]) -> int | None:
    """OmniMedVQA's match (``find_most_similar_index``): ``SequenceMatcher(None, option, prediction).ratio()``.

    The order of the two texts, the case, and difflib's heuristic for texts of 200 characters and more all count.

    Args:
        prediction: what was answered.
        options: the options' texts.

    Returns:
        The index of the first option with the highest ratio; None if every ratio is 0.
    """
    matcher = SequenceMatcher(None, "", prediction)
    best, highest = None, 0.0
    for index, option in enumerate(options):
        matcher.set_seq1(option)
        # An upper bound that costs nothing.
        if matcher.real_quick_ratio() <= highest:
            continue
        ratio = matcher.ratio()
        if ratio > highest:
            best, highest = index, ratio
    return best
