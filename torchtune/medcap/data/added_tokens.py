"""Encode and decode added words: each is one token, with an id after those of the language model's tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from itertools import groupby
from typing import Any

from medcap.data.regions.patch_weights import RegionForm
from medcap.errors import UserError

_ENDS = ("bos_id", "eos_id")


class WrittenWord(int):
    """The id of an added word in an answer where another text stands for the word, such as a box.

    Attributes:
        text: what is written in its place; it may be empty.
    """

    text: str

    def __new__(cls, token: int, text: str) -> WrittenWord:
        word = super().__new__(cls, token)
        word.text = text
        return word


@dataclass(frozen=True)
class AddedTokens:
    """Added words, their ids, and the two that stand around every image.

    Attributes:
        words: each is one token wherever it occurs in a text.
        first_id: id of the first word: the number of rows of the language model's embedding table. A table can have
            more rows than the tokenizer has ids, and reserved ids have rows too. A word never takes such a row, so the
            tables give the same values for their own ids, and an export can append the words' rows.
        image_words: the words before and after the image tokens of every image; empty for none.
        box_word: the word that stands for a box which a component of the model gives; empty for none.
        mask_word: the word that stands for a mask likewise.
        regions: how the model reads the region between ``<region>`` and ``</region>``; None where it reads none.
        ids: word -> id.
    """

    words: tuple[str, ...]
    first_id: int
    image_words: tuple[str, ...] = ()
    box_word: str = ""
    mask_word: str = ""
    regions: RegionForm | None = None
    ids: dict[str, int] = field(init=False, repr=False)
    _pattern: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_words(self.words, self.image_words)
        object.__setattr__(self, "ids", {word: self.first_id + number for number, word in enumerate(self.words)})
        # The longest first, so that <seg>2 in a text is not read as <seg> and 2.
        longest_first = sorted(self.words, key=len, reverse=True)
        object.__setattr__(self, "_pattern", re.compile(f"({'|'.join(map(re.escape, longest_first))})"))

    @property
    def box_id(self) -> int | None:
        """Return the id of the box word; None for none."""
        return self.ids.get(self.box_word)

    @property
    def mask_id(self) -> int | None:
        """Return the id of the mask word; None for none."""
        return self.ids.get(self.mask_word)

    @property
    def region_id(self) -> int | None:
        """Return the placeholder of a region's tokens, after that of images; None where the model reads no regions."""
        return None if self.regions is None else self.end + 1

    @property
    def region_tokens(self) -> list[int]:
        """Return all placeholders of a region."""
        return [] if self.regions is None else [self.end + 1] * self.regions.num_tokens

    @property
    def end(self) -> int:
        """Return the first id after those of the words."""
        return self.first_id + len(self.words)

    def encoder(self, encode: Callable[..., list[int]], tokenizer: Any) -> Callable[..., list[int]]:
        """Return an encoder that cuts a text at the words and encodes the pieces between them.

        Args:
            encode: encodes the text between the words.
            tokenizer: tokenizer whose ``encode`` it is, or calls.
        """
        begin, end = ([] if (token := getattr(tokenizer, name, None)) is None else [token] for name in _ENDS)
        # SentencePiece models put a blank before a text. After a word, decoding would give that blank as a second one.
        trims = "trim_leading_whitespace" in signature(tokenizer.encode).parameters
        after_word = {"trim_leading_whitespace": True} if trims else {}

        def encode_around(text: str, add_bos: bool = True, add_eos: bool = True, **options: Any) -> list[int]:
            first, *pieces = self._pattern.split(text)
            if not pieces:
                return encode(text, add_bos=add_bos, add_eos=add_eos, **options)
            ids = encode(first, add_bos=False, add_eos=False, **options) if first else []
            for word, piece in zip(pieces[::2], pieces[1::2], strict=True):
                ids.append(self.ids[word])
                if piece:
                    ids += encode(piece, add_bos=False, add_eos=False, **{**options, **after_word})
            return [*(begin if add_bos else []), *ids, *(end if add_eos else [])]

        return encode_around

    def decoder(self, decode: Callable[..., str], encode: Callable[..., list[int]]) -> Callable[..., str]:
        """Return a decoder that writes the words, or what stands for them, and decodes the ids between them.

        Args:
            decode: decodes the ids between the words.
            encode: encoder of the same tokenizer.
        """
        # SentencePiece models drop a blank at the start of a text. Decoding after a letter keeps a blank after a word.
        letter = encode("a", add_bos=False, add_eos=False)

        def decode_around(token_ids: list[int], **options: Any) -> str:
            text = ""
            for is_word, run in groupby(token_ids, lambda token: token >= self.first_id):
                ids = list(run)
                if is_word:
                    text += "".join(map(self._written, ids))
                else:
                    text += decode([*letter, *ids], **options).removeprefix("a") if text else decode(ids, **options)
            return text

        return decode_around

    def _written(self, token: int) -> str:
        return token.text if isinstance(token, WrittenWord) else self.words[token - self.first_id]


def check_words(words: Sequence[str], image_words: Sequence[str]) -> None:
    """Check words, as far as that is possible without a tokenizer.

    Args:
        words: value of the key ``words.tokens``.
        image_words: value of the key ``words.image_words``; empty for none.

    Raises:
        UserError: if a word cannot be a token; the message names it.
    """
    if not words:
        raise UserError("words.tokens is empty: name at least one word, such as words=[<SEG>], or leave words out")
    for number, word in enumerate(words):
        if not word.strip():
            raise UserError(f"words.tokens: word {number + 1} is empty: remove it")
        if word != word.strip():
            # Texts are stripped before they are encoded, so such a word would not be found at the end of a text.
            raise UserError(f"words.tokens: {word!r} begins or ends with white space: leave the white space out")
        if "<image>" in word:
            raise UserError(f"words.tokens: {word!r} holds <image>, which stands for an image: choose another word")
        if word in words[:number]:
            raise UserError(f"words.tokens: {word!r} is given twice: remove one")
    if len(image_words) not in (0, 2):
        raise UserError(f"words.image_words={list(image_words)}: give two words, one before and one after an image")
    for word in image_words:
        if word not in words:
            raise UserError(f"words.image_words: {word!r} is none of words.tokens={list(words)}: add it there")
