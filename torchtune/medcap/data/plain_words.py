"""Encode ordinary text as ids: it yields no special token and no tag of the chat template."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from torchtune.data import Message

from medcap.errors import WordsError

# <start_of_turn>, [multimodal] and similar: words by which vocabularies name the parts of a chat.
TAG = re.compile(r"<{1,2}[^<>\s]+>{1,2}|\[[^\[\]\s]+\]")
_NOT_ASCII = "\ufffd"


class WordEncoder:
    """Encodes words so that those that spell a special token, or a tag of the template, stay words.

    Some tokenizers find special tokens in any text (Qwen 2.5, and the user-defined symbols of Gemma's SentencePiece
    model). A user who writes one could end a turn or open another, and an answer would teach one in its middle.
    Llama 2 and Mistral write their tags, such as ``[INST]``, as ordinary text; in words these are spelled letter by
    letter, which gives other ids than the template's own.

    Args:
        tokenizer: any torchtune model tokenizer.
        encode: its ``encode``.

    Attributes:
        special_ids: the ids that mark something and are never words.
    """

    def __init__(self, tokenizer: Any, encode: Callable[..., list[int]]) -> None:
        self._encode = encode
        self._pieces: Any = getattr(getattr(tokenizer, "_spm_model", None), "spm_model", None)
        self._names = {token: name for name, token in (getattr(tokenizer, "special_tokens", None) or {}).items()}
        if self._pieces is not None:
            self._names |= dict(_symbols(self._pieces))
        tags = _template_tags(tokenizer) if self._pieces is not None else []
        self._tags = re.compile("|".join(map(re.escape, tags))) if tags else None
        self.special_ids = frozenset(self._names)

    def __call__(self, text: str, *args: Any, **options: Any) -> list[int]:
        """Encode words; arguments as for the tokenizer's ``encode``, without a first or last token.

        Raises:
            WordsError: if a special token in them cannot be spelled by other tokens.
        """
        ids = self._encode(text, *args, **options)
        if self._pieces is not None and self._tags is not None and self._tags.search(text):
            return self._spell_pieces(ids)
        if self.special_ids.isdisjoint(ids):
            return ids
        return self._spell_pieces(ids) if self._pieces is not None else self._spell_names(ids)

    def _spell_names(self, ids: list[int]) -> list[int]:
        """Put the ids of its name instead of each special id, for tokenizers that join texts by their bytes."""
        spelled: list[int] = []
        for token in ids:
            if token not in self.special_ids:
                spelled.append(token)
                continue
            name = self._names[token]
            for part in (name[0], name[1:]):
                spelled += self._encode(part, add_bos=False, add_eos=False) if part else []
        if not self.special_ids.isdisjoint(spelled):
            raise WordsError("it spells a special token that the tokenizer cannot write as words")
        return spelled

    def _spell_pieces(self, ids: list[int]) -> list[int]:
        """Take apart the SentencePiece pieces of special tokens and of the template's tags."""
        shown = [self._shown(token) for token in ids]
        text = "".join(shown)
        tags = [match.span() for match in self._tags.finditer(text)] if self._tags is not None else []
        spelled: list[int] = []
        end = 0
        for token, piece in zip(ids, shown, strict=True):
            start, end = end, end + len(piece)
            in_tag = any(first < end and start < last for first, last in tags)
            if in_tag or token in self.special_ids:
                spelled += [token] if self._pieces.is_byte(token) else self._spell(piece)
            else:
                spelled.append(token)
        return spelled

    def _shown(self, token: int) -> str:
        piece = self._pieces.id_to_piece(token)
        if not self._pieces.is_byte(token):
            return piece
        byte = int(piece[3:-1], 16)  # <0x5B>
        return chr(byte) if byte < 128 else _NOT_ASCII

    def _spell(self, piece: str) -> Iterator[int]:
        for character in piece:
            token = self._pieces.piece_to_id(character)
            ids = [token]
            if token == self._pieces.unk_id():
                ids = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in character.encode()]
            if self._pieces.unk_id() in ids:
                raise WordsError(f"it spells {piece}, which the tokenizer cannot write as words")
            yield from ids


def _symbols(pieces: Any) -> Iterator[tuple[int, str]]:
    """Yield the ids and names of a SentencePiece model that mark something.

    A user-defined symbol may also be text that is kept whole, such as line breaks and HTML's elements in Gemma's: one
    counts if it looks like a tag and has no closing partner.
    """
    for token, name in enumerate(pieces.id_to_piece(list(range(pieces.get_piece_size())))):
        if not TAG.fullmatch(name) or pieces.is_byte(token) or pieces.is_unknown(token):
            continue
        # SentencePiece does not store the type. Its trainer gives user-defined symbols the score 0.
        defined = pieces.get_score(token) == 0 and not _has_partner(pieces, name)
        if pieces.is_control(token) or defined:
            yield token, name


def _has_partner(pieces: Any, name: str) -> bool:
    inner = name.strip("<>/")
    partner = f"<{inner}>" if name.startswith("</") else f"</{inner}>"
    return name.startswith("<") and pieces.piece_to_id(partner) != pieces.unk_id()


def _template_tags(tokenizer: Any) -> list[str]:
    """Return the tags that the tokenizer's prompt template writes around turns, the longest first."""
    template = getattr(tokenizer, "prompt_template", None)
    if template is None:
        return []
    turns = [Message(role=role, content="") for role in ("user", "assistant")]
    tags: set[str] = set()
    for messages in ([Message(role="system", content=""), *turns], turns):
        try:
            written = template(messages)
        except ValueError:  # Mistral's template refuses system turns
            continue
        for message in written:
            for part in message.content:
                tags.update(TAG.findall(part["content"]))
    return sorted(tags, key=lambda tag: (-len(tag), tag))
