"""What names the object that a question asks for."""

from __future__ import annotations

import re
import string

from medcap.scoring.question import Question

_REF = re.compile(r"<ref>(.{1,200}?)</ref>", re.DOTALL)
_EDGES = string.punctuation + string.whitespace


def phrase_keys(question: Question) -> list[str]:
    """Return what tells the object of a question, the surest first; see :func:`keys_of`."""
    return keys_of(question.text, question.meta.get("phrase", ""))


def keys_of(words: str, phrase: str = "") -> list[str]:
    """Return what tells the object that is asked for, the surest first.

    Args:
        words: the question.
        phrase: the object's name, where the row has it.

    Returns:
        The phrase, what Qwen-VL's ``<ref>`` holds, and the whole question, as far as they are there; lower-cased, with
        single spaces and without punctuation at the edges.
    """
    named = _REF.search(words)
    texts = [phrase, named[1] if named else "", words]
    return list(dict.fromkeys(key for text in texts if (key := " ".join(text.casefold().split()).strip(_EDGES))))
