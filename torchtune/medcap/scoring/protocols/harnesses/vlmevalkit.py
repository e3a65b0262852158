"""VLMEvalKit's reading of a reply to a question with options, without its language model."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import ClassVar

from medcap.errors import UserError
from medcap.scoring.protocols.base import Prompt
from medcap.scoring.protocols.multiple_choice import MultipleChoice
from medcap.scoring.question import Answer, Question

_FAILED = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_NO_OPTION = "Z"
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_WORDS = 5


class VlmEvalKit(MultipleChoice):
    """VLMEvalKit's matching of options (``can_infer`` with the policy ``exact_matching``).

    Source: open-compass/VLMEvalKit, ``vlmeval/utils/matching_util.py`` (:18-128 at e8e78f05). What is not matched goes
    to a language model there; with ``exact_matching``, and here, it is wrong.

    Options:
        verbose: ``true`` is the program with the environment variable ``VERBOSE`` set, which changes the score: a reply
            of more than three words with the single letter A is then not read by its letter.
    """

    name = "vlmevalkit"
    prompt = Prompt.LETTERED_OPTIONS
    description = (
        "VLMEvalKit's exact matching: the only option's letter that stands alone, among the last five words; otherwise"
        " the only option whose text is in the reply, if the reply is no longer than twice all options; anything else"
        " is wrong"
    )
    option_names = ("verbose",)
    variants: ClassVar[Mapping[str, Mapping[str, str]]] = {"verbose": {"verbose": "true"}}
    headline = over_rows = "accuracy"
    over_modalities = "accuracy_by_modality"
    published = True

    def __init__(self, verbose: str = "false") -> None:
        if verbose not in ("true", "false"):
            raise UserError(f"{self.name}: verbose={verbose} is unknown; it is true or false")
        self._verbose = verbose == "true"
        if self._verbose:
            self.name = f"{self.name}@verbose"

    def is_right(self, option: str, question: Question) -> bool:
        """Return whether it is the same text; see :class:`MultipleChoice`."""
        return option == self.reference(question)

    def choose(self, answer: Answer) -> tuple[str | None, bool]:
        """Match the letter, then the text; see :class:`MultipleChoice`.

        The benchmark's answer is a letter: of two options with one text only the first is right.
        """
        lettered = zip(string.ascii_uppercase, answer.question.lettered, strict=False)
        choices = {letter: option for letter, option in lettered if option}
        letter = matched_letter(answer.prediction, choices, self._verbose)
        return choices.get(letter), letter in self.right_letters(answer.question)[:1]


def matched_letter(reply: str, choices: Mapping[str, str], verbose: bool = False) -> str:
    """Return the letter of the option that a reply names (``can_infer``).

    Args:
        reply: what was answered.
        choices: letter -> text.
        verbose: see :class:`VlmEvalKit`.

    Returns:
        A letter; "Z" where the reply says that there is none, "" where nothing is matched.
    """
    return _by_letter(reply, choices, verbose) or _by_text(reply, choices)


def _by_letter(reply: str, choices: Mapping[str, str], verbose: bool) -> str:
    if _FAILED in reply:
        return ""
    if any(refusal in reply for refusal in _REFUSALS):
        return _NO_OPTION
    words = reply.translate(_MARKS).split()
    named = [letter for letter in choices if letter in words]
    if not named:
        return _NO_OPTION if _NO_OPTION in words else ""
    if len(named) > 1 or (verbose and "A" in words and len(words) > 3):
        return ""
    return named[0] if words.index(named[0]) > len(words) - _LAST_WORDS else ""


def _by_text(reply: str, choices: Mapping[str, str]) -> str:
    text = reply.lower()
    if len(text) > 2 * sum(map(len, choices.values())):
        return ""
    named = [letter for letter, option in choices.items() if option.lower() in text]
    return named[0] if len(named) == 1 else ""
