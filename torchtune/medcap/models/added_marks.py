"""The tokens of a tokenizer.json that mark something, and words in which they are only words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medcap.data.plain_words import TAG

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def find_marks(added: Mapping[int, Any], template: str) -> list[int]:
    """Return the ids of the added tokens that mark something.

    A file may also keep words whole by adding them, such as line breaks and HTML's elements (Gemma). What it does not
    call special counts if it looks like a tag, and has no closing partner or occurs in the template.
    """
    names = {token.content for token in added.values()}
    found = []
    for number, token in added.items():
        inner = token.content.strip("<>/")
        partner = f"<{inner}>" if token.content.startswith("</") else f"</{inner}>"
        is_tag = TAG.fullmatch(token.content) and (partner not in names or token.content in template)
        if token.special or is_tag:
            found.append(number)
    return found


def without_marks(tokenizer: Tokenizer, marks: Sequence[Any]) -> Tokenizer:
    """Return a copy that reads marks in a text as words."""
    from tokenizers import AddedToken, Tokenizer

    words = Tokenizer.from_str(tokenizer.to_str())
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    words.add_special_tokens(
        [AddedToken(token.content, special=True, **{name: getattr(token, name) for name in flags}) for token in marks]
    )
    words.encode_special_tokens = True
    return words


def inside_marks(text: str, before: str, after: str) -> str:
    """Put the template's blanks around words, inside the two marks that a chat tokenizer puts around them."""
    if not before and not after:
        return text
    start, end = int(_is_mark(text[:1])), len(text) - int(_is_mark(text[-1:]))
    return f"{text[:start]}{before}{text[start:end]}{after}{text[end:]}"


def _is_mark(character: str) -> bool:
    return "\ufdd0" <= character <= "\ufdef"  # Unicode noncharacters
