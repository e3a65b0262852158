"""Characters that cannot occur in text: they mark images, regions and the words of turns while a chat is tokenized."""

from __future__ import annotations

import re

from medcap.data.row_layouts import PLACEHOLDER
from medcap.errors import UserError, WordsError

# Unicode noncharacters: never assigned, not valid in exchanged text.
IMAGE_MARK = "\ufdd0"
ANSWER_MARK = "\ufdd1"  # before the assistant's words
WORDS_MARK = "\ufdd2"  # before the user's and the system's words
END_MARK = "\ufdd3"  # after the words of a turn
REGION_MARK = "\ufdd4"
MARK_IDS = {IMAGE_MARK: -1, ANSWER_MARK: -2, WORDS_MARK: -3, END_MARK: -4, REGION_MARK: -5}  # among token ids
ANY_MARK = re.compile(f"([{''.join(MARK_IDS)}])")
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_text(text: str) -> str:
    """Check that words contain no half of a character and no character that stands for an image.

    Args:
        text: the words.

    Returns:
        The same words.

    Raises:
        WordsError: for half of a character: most tokenizers fail on it, others learn a replacement for it.
        UserError: for an image's character: it would be taken for an image that is not there.
    """
    if any(mark in text for mark in (*MARK_IDS, PLACEHOLDER)):
        raise UserError(f"the text {text[:40]!r} holds a character that stands for an image ({PLACEHOLDER})")
    half = _SURROGATE.search(text)
    if half is not None:
        near = text[max(half.start() - 20, 0) : half.start() + 20]
        raise WordsError(f"the text {near!r} holds half of a character (a lone surrogate), which no text may hold")
    return text
