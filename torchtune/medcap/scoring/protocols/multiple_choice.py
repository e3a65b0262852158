"""Rules for questions with options: medcap 2024's letters, and robust parsing."""

from __future__ import annotations

import string
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from medcap.errors import UserError
from medcap.scoring.protocols.base import Prompt, Protocol, ProtocolScores
from medcap.scoring.protocols.summary import (
    check_answers,
    count_notice,
    one_reference_notice,
    reasoning_notice,
    row_means,
)
from medcap.scoring.question import Answer, Question
from medcap.scoring.replies.final_reply import final_reply
from medcap.scoring.replies.numbers import same_number
from medcap.scoring.replies.option_reply import parse_option
from medcap.scoring.statistics import bootstrap_group_mean

LETTERS = "ABCD"


class MultipleChoice(Protocol):
    """Accuracy over rows, and as the unweighted mean over modalities.

    Rows without a modality form one group of their own. The reference is an option's text, or its letter where no
    option has that text. A row without options, or whose reference is neither, cannot be answered correctly: it is
    wrong and counted.

    Attributes:
        over_rows: name of the accuracy over rows.
        over_modalities: name of the unweighted mean of the modalities' accuracies.
        published: whether the rule is a published one, which reads what a model said as it stands.
        takes_letters: whether a reference that is no option's text may be the letter of one.
    """

    over_rows: ClassVar[str]
    over_modalities: ClassVar[str]
    published: ClassVar[bool] = False
    takes_letters: ClassVar[bool] = True

    @abstractmethod
    def choose(self, answer: Answer) -> tuple[str | None, bool]:
        """Read a reply.

        Args:
            answer: a row with options.

        Returns:
            What was chosen (an option's text or a letter; None for nothing) and whether it is right.
        """

    def is_right(self, option: str, question: Question) -> bool:
        """Return whether an option is the question's reference: the same text, or the same number (2 and 2.0)."""
        reference = self.reference(question)
        return option == reference or same_number(option, reference)

    def right_letters(self, question: Question) -> list[str]:
        """Return the letters of the options that are the reference: one where it is a letter itself."""
        if letter := self.reference_letter(question):
            return [letter]
        lettered = zip(string.ascii_uppercase, question.lettered, strict=False)
        return [letter for letter, option in lettered if option and self.is_right(option, question)]

    def reference(self, question: Question) -> str:
        """Return the reference; the option's text where it is the letter of one."""
        letter = self.reference_letter(question)
        return question.lettered[string.ascii_uppercase.index(letter)] if letter else question.references[0]

    def reference_letter(self, question: Question) -> str:
        """Return the letter that the reference is, as a capital; "" where it is none, or an option's text."""
        letter = question.references[0].strip().upper()
        if not self.takes_letters or question.references[0] in question.options or len(letter) != 1:
            return ""
        place = string.ascii_uppercase.find(letter)
        return letter if 0 <= place < len(question.lettered) and question.lettered[place] else ""

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score answers; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        notices = self._check_options(answers) + one_reference_notice(answers)
        notices += reasoning_notice(answers, self.published)
        rows = [self._row(answer) for answer in answers]
        modalities = [answer.question.groups.get("modality", "") for answer in answers]
        without = [answer for answer, modality in zip(answers, modalities, strict=True) if not modality]
        notices += count_notice(f"rows without a modality, one group of {self.over_modalities}", without, answers)
        means, intervals = row_means(rows, {self.over_rows: "accuracy"})
        hits = [row["accuracy"] for row in rows]
        means[self.over_modalities] = _mean_of_means(hits, modalities)
        intervals[self.over_modalities] = bootstrap_group_mean(hits, modalities).as_dict()
        order = sorted(means, key=lambda name: name != self.headline)
        return ProtocolScores(
            {name: means[name] for name in order}, {name: intervals[name] for name in order}, rows, counts, notices
        )

    def _row(self, answer: Answer) -> dict[str, Any]:
        choice, correct = self.choose(answer) if answer.question.options else (None, False)
        hit = float(correct)
        return {
            "question_id": answer.question.id,
            "accuracy": hit,
            "choice": choice,
            "correct": correct,
            "value": hit,
        }

    def _check_options(self, answers: Sequence[Answer]) -> list[str]:
        bare = [answer for answer in answers if not answer.question.options]
        if len(bare) == len(answers):
            first = bare[0].question.id
            raise UserError(f"{self.name}: no row has 'options' (the first is {first}): add the list to the rows")
        by_letter = [answer for answer in answers if self.reference_letter(answer.question)]
        strange = [
            answer
            for answer in answers
            if answer.question.options
            and not any(self.is_right(option, answer.question) for option in answer.question.options)
        ]
        return [
            *count_notice("rows without options, counted as wrong", bare, answers),
            *count_notice("rows whose reference is the letter of an option", by_letter, answers),
            *count_notice("rows whose reference is not an option, counted as wrong", strange, answers),
        ]


class MedcapLetter(MultipleChoice):
    """medcap 2024's ``eval_vqa``: the reply's first character is the letter.

    Source: medcap, ``torchtune/custom_generate_func.py`` (:301-366).
    """

    name = "medcap_letter"
    prompt = Prompt.MAPPED_OPTION
    description = (
        "medcap 2024's option mapping: the first character of the reply, behind a model's reasoning, upper-cased, is"
        " the letter (A to D), and anything else is wrong, an empty reply too (where medcap 2024 took the previous"
        " row's letter), and so is the second letter of an option that stands twice; accuracy is the unweighted mean"
        " over modalities"
    )
    headline = over_modalities = "accuracy"
    over_rows = "accuracy_rows"
    takes_letters = False  # medcap 2024 compares texts of options

    def choose(self, answer: Answer) -> tuple[str | None, bool]:
        """Take the first character; see :class:`MultipleChoice`."""
        letter = final_reply(answer.prediction).strip()[:1].upper()
        index = LETTERS.find(letter) if len(letter) == 1 else -1
        return letter or None, index >= 0 and LETTERS[index] in self.right_letters(answer.question)[:1]

    def _check_options(self, answers: Sequence[Answer]) -> list[str]:
        twice = [answer for answer in answers if len(set(answer.question.options)) < len(answer.question.options)]
        notice = count_notice(
            "rows with one option twice, of which this rule knows the first letter alone", twice, answers
        )
        return super()._check_options(answers) + notice


class MedcapOption(MultipleChoice):
    """medcap 2024's option mapping with robust parsing of the reply."""

    name = "medcap_option"
    prompt = Prompt.MAPPED_OPTION
    description = (
        "the option that a reply names by its letter or its text, robustly parsed; a model's reasoning is taken off"
        " first, and what a reply denies is not named; a reply that names none or several is wrong; accuracy is the"
        " unweighted mean over modalities"
    )
    headline = over_modalities = "accuracy"
    over_rows = "accuracy_rows"

    def choose(self, answer: Answer) -> tuple[str | None, bool]:
        """Parse the reply; see :class:`MultipleChoice`."""
        lettered = answer.question.lettered
        chosen = parse_option(answer.prediction, lettered)
        if chosen is None:
            return None, False
        return lettered[chosen], self.is_right(lettered[chosen], answer.question)


def _mean_of_means(values: Sequence[float], groups: Sequence[str]) -> float:
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    return sum(sum(own) / len(own) for own in members.values()) / len(members)
