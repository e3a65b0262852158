"""Options chosen by likelihood: nothing to parse, an option is the reference or it is not."""

from __future__ import annotations

from medcap.scoring.protocols.base import Prompt
from medcap.scoring.protocols.multiple_choice import MultipleChoice
from medcap.scoring.question import Answer

_NORMALIZED = "prediction_normalized"  # the option with the highest log-probability a token


class ChosenOption(MultipleChoice):
    """The answer is the text of the option that the model finds most likely."""

    headline = over_rows = "accuracy"
    over_modalities = "accuracy_by_modality"

    def choose(self, answer: Answer) -> tuple[str | None, bool]:
        """See :class:`MultipleChoice`."""
        chosen = answer.prediction
        return chosen or None, bool(chosen) and chosen == answer.question.references[0]


class LikelyText(ChosenOption):
    """The most likely option as a whole."""

    name = "option_text"
    prompt = Prompt.OPTION_TEXT
    description = (
        "the option that is most likely as the whole answer (sum of the log-probabilities of its tokens and of the end"
        " of the turn), the options not shown"
    )


class LikelyTextNormalized(ChosenOption):
    """The most likely option a token."""

    name = "option_text_normalized"
    prompt = Prompt.OPTION_TEXT
    field = _NORMALIZED
    description = (
        "the option that is most likely per token (mean of the log-probabilities of its tokens and of the end of the"
        " turn), the options not shown"
    )


class LikelyLetter(ChosenOption):
    """The option with the most likely letter."""

    name = "option_letter"
    prompt = Prompt.OPTION_LETTER
    description = (
        "the option whose letter is most likely as the first word of the answer, the options shown with their letters"
    )


class OmniMedVqaPrefix(ChosenOption):
    """OmniMedVQA's prefix score."""

    name = "omnimedvqa_prefix"
    prompt = Prompt.OMNIMEDVQA_PREFIX
    field = _NORMALIZED
    description = (
        "OmniMedVQA's prefix score, with the image: the option with the lowest mean cross-entropy in 'Question:"
        " {question} The answer is {option}.', the full stop included"
    )
