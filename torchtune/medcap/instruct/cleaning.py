"""The rules that take out of a conversation what shows that its writer did not see the image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from medcap.instruct.phrases import Phrases

Pair = tuple[str, str]
# The rules in the order in which they are applied; what each does to a pair.
CANNOT_SEE = "the answer does not answer"
PREFIX = "words before a statement"
INNER = "words within a statement"
NAMES_TEXT = "caption or description is named"
REPEATED = "the question was asked before"
RULES = {
    CANNOT_SEE: "removed",
    PREFIX: "changed",
    INNER: "changed",
    NAMES_TEXT: "removed",
    REPEATED: "removed",
}
_TIDY = (
    (re.compile(r"\(\s*\)"), ""),
    (re.compile(r"\s+([,.;:!?])"), r"\1"),
    (re.compile(r"[,;:](?=[,.;:!?])"), ""),
    (re.compile(r"\A[\s,;:.]+"), ""),
    (re.compile(r"[ \t]{2,}"), " "),
)


@dataclass(frozen=True)
class Effect:
    """What a rule did to a pair.

    Attributes:
        rule: one of ``RULES``.
        question: the question.
        before: the answer before.
        after: the answer after; None where the pair was removed.
    """

    rule: str
    question: str
    before: str
    after: str | None


def clean_pairs(pairs: Sequence[Pair], phrases: Phrases) -> tuple[list[Pair], list[Effect]]:
    """Apply the rules to a conversation.

    The first four rules are those of LLaVA-Med (microsoft/LLaVA-Med v1.0.0, llava/instruct/instruct_postprocess.py,
    lines 11-83) with phrases of our own. A pair is removed if its answer says that the image cannot be seen or that the
    text does not tell. Words that name the source are taken from the beginning of an answer (here: of each sentence),
    which then begins with a capital again, and from within it. A pair that still names a caption or a description is
    removed. The fifth removes a question that the same conversation has asked before.

    Args:
        pairs: questions and answers.
        phrases: what to look for.

    Returns:
        The pairs that are left, and what was done.

    Example:
        >>> clean_pairs([("What is it?", "According to the caption, it is a cyst.")], read_phrases())[0]
        [('What is it?', 'It is a cyst.')]
    """
    kept: list[Pair] = []
    effects: list[Effect] = []
    asked: set[str] = set()
    for question, original in pairs:
        answer = original
        removed = CANNOT_SEE if not answer.strip() or phrases.cannot_see.search(answer) else ""
        if not removed:
            for rule, pattern in ((PREFIX, phrases.prefix), (INNER, phrases.inner)):
                changed = _without(answer, pattern)
                if changed != answer:
                    effects.append(Effect(rule, question, answer, changed))
                    answer = changed
            key = " ".join(question.lower().split())
            if not answer or phrases.answer_word.search(answer) or phrases.question_word.search(question):
                removed = NAMES_TEXT
            elif key and key in asked:
                removed = REPEATED
        if removed:
            effects.append(Effect(removed, question, answer, None))
        else:
            kept.append((question, answer))
            asked.add(" ".join(question.lower().split()))
    return kept, effects


def _without(text: str, pattern: re.Pattern[str]) -> str:
    """Return a text without what a pattern finds, with its blanks, commas and capitals put right."""
    rest = text
    while (shorter := pattern.sub(_rest_of, rest)) != rest:
        rest = shorter
    if rest == text:
        return text
    for found, replacement in _TIDY:
        rest = found.sub(replacement, rest)
    rest = rest.strip()
    if not re.search(r"\w", rest):
        return ""
    return rest[:1].upper() + rest[1:]


def _rest_of(match: re.Match[str]) -> str:
    """Return what stays of a match: nothing, or the blank before a sentence and its first letter as a capital."""
    groups = match.groupdict()
    return "" if "next" not in groups else ("" if match.start() == 0 else " ") + groups["next"].upper()
