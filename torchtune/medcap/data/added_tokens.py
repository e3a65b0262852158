"""Words that are one token each, with ids after those of the language model's tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from medcap.errors import UserError


@dataclass(frozen=True)
class AddedTokens:
    """Words, their ids, and those that stand around every image.

    Attributes:
        words: each is one token wherever it occurs in a text.
        first_id: rows of the language model's embedding table. A table can have more rows than the tokenizer has ids,
            and reserved ids have rows too; a word never takes one of them, so that what the tables give for their own
            ids stays the same, and the words' rows follow the tables when a model is written with larger ones.
        image_words: the words before and after the image tokens of every image; none for no words.
        ids: word -> id.
    """

    words: tuple[str, ...]
    first_id: int
    image_words: tuple[str, ...] = ()
    ids: dict[str, int] = field(init=False, repr=False)
    _pattern: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_words(self.words, self.image_words)
        object.__setattr__(self, "ids", {word: self.first_id + number for number, word in enumerate(self.words)})
        # The longest first: of <seg> and <seg>2 the second wins where both begin.
        longest_first = sorted(self.words, key=len, reverse=True)
        object.__setattr__(self, "_pattern", re.compile(f"({'|'.join(map(re.escape, longest_first))})"))

    @property
    def end(self) -> int:
        """The first id after those of the words."""
        return self.first_id + len(self.words)

    def encoder(self, encode: Callable[..., list[int]], tokenizer: Any) -> Callable[..., list[int]]:
        """Return an encoder that cuts text at the words before another one sees it.

        Args:
            encode: encodes the text between the words.
            tokenizer: has ``bos_id`` and ``eos_id``.
        """

        def encode_around(text: str, add_bos: bool = True, add_eos: bool = True, **options: Any) -> list[int]:
            pieces = self._pattern.split(text)
            if len(pieces) == 1:
                return encode(text, add_bos=add_bos, add_eos=add_eos, **options)
            begin, end = (getattr(tokenizer, name, None) for name in ("bos_id", "eos_id"))
            ids = [begin] if add_bos and begin is not None else []
            for piece in pieces:
                if piece in self.ids:
                    ids.append(self.ids[piece])
                elif piece:
                    ids += encode(piece, add_bos=False, add_eos=False, **options)
            return [*ids, end] if add_eos and end is not None else ids

        return encode_around

    def decoder(self, decode: Callable[..., str]) -> Callable[..., str]:
        """Return a decoder that writes the words, and leaves the ids between them to another one."""

        def decode_around(token_ids: list[int], **options: Any) -> str:
            if not any(token >= self.first_id for token in token_ids):
                return decode(token_ids, **options)
            pieces = []
            for is_word, run in groupby(token_ids, lambda token: token >= self.first_id):
                ids = list(run)
                pieces += [self.words[token - self.first_id] for token in ids] if is_word else [decode(ids, **options)]
            return "".join(pieces)

        return decode_around


def check_words(words: Sequence[str], image_words: Sequence[str]) -> None:
    """Check words for what no tokenizer is needed to see.

    Args:
        words: the key ``words.tokens``.
        image_words: the key ``words.image_words``.

    Raises:
        UserError: naming the word.
    """
    if not words:
        raise UserError("words.tokens is empty: name at least one word, such as words=[<SEG>], or leave words out")
    for number, word in enumerate(words):
        if not word.strip():
            raise UserError(f"words.tokens: word {number + 1} is empty: remove it")
        if word != word.strip():
            # Texts are stripped before they are encoded, so that such a word would be another one at a text's end.
            raise UserError(f"words.tokens: {word!r} begins or ends with white space: leave the white space out")
        if word == "<image>":
            raise UserError("words.tokens: '<image>' stands for an image already: choose another word")
        if word in words[:number]:
            raise UserError(f"words.tokens: {word!r} is given twice: remove one")
    if len(image_words) not in (0, 2):
        raise UserError(f"words.image_words={list(image_words)}: give two words, one before and one after an image")
    for word in image_words:
        if word not in words:
            raise UserError(f"words.image_words: {word!r} is none of words.tokens={list(words)}: add it there")
