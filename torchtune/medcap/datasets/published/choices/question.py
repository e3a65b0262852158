"""One multiple-choice question of a published data set, about any number of images."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medcap.datasets.published.fields import field_words

LETTERS = string.ascii_uppercase
_AROUND_A_LETTER = " ().:[]"


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """The fields of a question in a file.

    Attributes:
        location: the file and row, for messages.
        id: its name in the file, or its number.
        question: its words. Where they hold as many placeholders as there are images, these stand there; otherwise
            they come before the words.
        columns: the options by their letter, A first; "" where a letter has none. None for an open question.
        answer: the right option's letter as the file has it, or the accepted answers of an open question.
        images: in order, the name or the encoded content of each; None for one that is not in the file.
        meta: further fields, such as ``modality``, ``question_type``, ``organ``, ``patient``.
        problem: what is wrong with the row.
    """

    location: str
    id: str
    question: str
    columns: tuple[str, ...] | None
    answer: str | tuple[str, ...]
    images: tuple[str | bytes | None, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def letter_index(answer: str) -> int | None:
    """Return the number of an option's letter, such as ``B``, ``(b)`` or ``B.``; None for anything else."""
    letter = answer.strip(_AROUND_A_LETTER).upper()
    return LETTERS.index(letter) if len(letter) == 1 and letter in LETTERS else None


def columns_of(options: Any) -> tuple[str, ...]:
    """Return options by their letter.

    Args:
        options: a mapping from letters to texts, or a list of texts, with or without ``A.`` before them.

    Returns:
        A text for each letter up to the last one that has an option, "" where there is none; empty where this is
        neither a mapping nor a list.
    """
    if isinstance(options, Mapping):
        known = {
            index: field_words(text) for name, text in options.items() if (index := letter_index(str(name))) is not None
        }
        texts = [known.get(index, "") for index in range(max(known, default=-1) + 1)]
    elif isinstance(options, Sequence) and not isinstance(options, str | bytes):
        texts = [field_words(option) for option in options][: len(LETTERS)]
        texts = _without_letters(texts)
    else:
        return ()
    while texts and not texts[-1]:
        texts.pop()
    return tuple(texts)


def _without_letters(texts: list[str]) -> list[str]:
    """Take ``A.`` or ``A)`` off, if every text begins with its own letter."""
    found = [re.match(rf"\(?{letter}[.):]\s*(?=\S)", text) for letter, text in zip(LETTERS, texts, strict=False)]
    return [text[match.end() :] for match, text in zip(found, texts, strict=True) if match] if all(found) else texts
