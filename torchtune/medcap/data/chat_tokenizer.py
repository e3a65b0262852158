"""Chats -> token ids, with images expanded and labels on the assistant's words, for any torchtune tokenizer.

The chat template comes from the tokenizer. Marks that cannot occur in text show where an image is and where the
assistant begins to speak; they are put into the messages, and taken out of the ids again.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from functools import partial
from inspect import signature
from typing import Any, cast

from torchtune.data import Message, Role

from medcap.data.added_tokens import AddedTokens
from medcap.data.answers import check_answers
from medcap.data.base_tokenizer import Tokenizer, vocab_size_of
from medcap.data.chat_marks import (
    ANSWER_MARK,
    ANY_MARK,
    END_MARK,
    IMAGE_MARK,
    MARK_IDS,
    REGION_MARK,
    WORDS_MARK,
    check_text,
)
from medcap.data.images.tiles import Tiles
from medcap.data.labels_and_image_tokens import LabelRules, SpecialIds, TokenizedChat, TokenizedPrompt, expand
from medcap.data.plain_words import WordEncoder
from medcap.data.regions.region import Region
from medcap.data.row_layouts import PLACEHOLDER
from medcap.data.row_regions import REGION_WORDS, regions_of
from medcap.errors import UserError, WordsError
from medcap.modules.label_loss import IGNORE_INDEX
from medcap.plurals import counted

_MOST_ANSWERS = 10_000
_LONGEST_KEPT = 200  # characters
# Words, names, numbers, signs and scripts that vocabularies cut differently.
_PROBE = (
    "Is there evidence of an aortic aneurysm? Chest X-ray (PA) shows cardiomegaly, bilateral pleural effusions and a"
    " 2.5 cm spiculated nodule in the left upper lobe; hepatosplenomegaly, T2-weighted FLAIR hyperintensities, 18F-FDG"
    " PET/CT SUVmax = 12.7.\n\nImmunohistochemistry: CD20+, Ki-67 ~90%, H&E ×400, p<0.001, 37 °C, β-catenin, naïve,"
    " “quotes”, 胸部X線, рентген, \t{'key': [0, 1e-5]} https://example.org/a_b?c=d#e"
)


class ChatTokenizer:
    """A torchtune tokenizer that knows images.

    Args:
        tokenizer: any torchtune model tokenizer (Llama 2/3, Qwen 2.5, Mistral, Phi-3, Gemma, ...).
        num_image_tokens: placeholder tokens for each picture of an image, the projector's K.
        added: words that are one token each, besides the tokenizer's own; None for none.
        tiles: how images are cut into several pictures; None for one picture an image.

    Attributes:
        vocab_size: ids of the tokenizer; those of added words come later.
        image_token_id: the id at image positions: that of medcap 2024's character where the tokenizer has it as one
            token (118075 for Llama 3), otherwise the first id after the vocabulary and the added words. Text can never
            produce it, because that character always means an image.
        without_added: the same without the added words, which are plain text to it.
        stop_tokens: the ids that end an answer, in ascending order: the tokenizer's own, and the special token that its
            chat template puts after an answer, which torchtune does not always count among them.
        marks_turns: False where the template puts nothing between a question and its answer, as with Gemma's tokenizer
            unless it is given a prompt template.
    """

    def __init__(
        self, tokenizer: Tokenizer, num_image_tokens: int, added: AddedTokens | None = None, tiles: Tiles | None = None
    ) -> None:
        plain = None if added is None else ChatTokenizer(copy.copy(tokenizer), num_image_tokens, tiles=tiles)
        self.without_added = plain or self
        self.tokenizer = tokenizer
        self.num_image_tokens = num_image_tokens
        self.added = added
        self.tiles = tiles
        self._num_pictures: Callable[[Any], int] = _size_unknown
        self._encode: Callable[..., list[int]] = tokenizer.encode
        encode_words = WordEncoder(tokenizer, self._encode)
        self._encode_words: Callable[..., list[int]] = encode_words
        self._word_special_ids = encode_words.special_ids
        tokenizer.max_seq_len = None  # truncation must see image runs, so it is done here
        self.vocab_size = vocab_size_of(tokenizer)
        ids = self._plain_ids(PLACEHOLDER)
        self.image_token_id = ids[0] if len(ids) == 1 else self.vocab_size
        if added is not None:
            self._check_new(added)
            self._encode = added.encoder(self._encode, tokenizer)
            self._encode_words = added.encoder(encode_words, tokenizer)
            self.image_token_id = ids[0] if len(ids) == 1 else added.end
            self.without_added.image_token_id = self.image_token_id
        self._bos_id = getattr(tokenizer, "bos_id", None)
        tokenizer.encode = self._encode_marked
        ends, self.marks_turns = self._look_at_template()
        self.stop_tokens: list[int] = sorted({*(getattr(tokenizer, "stop_tokens", None) or [tokenizer.eos_id]), *ends})
        self._special_ids = encode_words.special_ids.union(self.stop_tokens)
        self._can_keep_words = "skip_special_tokens" in signature(tokenizer.decode).parameters
        if added is not None:
            tokenizer.decode = added.decoder(tokenizer.decode, encode_words)
        self._answers: dict[tuple[str, bool], list[int]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # The tokenizer's methods are replaced by this object's, which call them: a copy must be built in that order.
        tokenizer = copy.copy(self.tokenizer)
        for name in ("encode", "decode"):
            tokenizer.__dict__.pop(name, None)
        return _rebuilt, (tokenizer, self.num_image_tokens, self.added, self.tiles, self._num_pictures)

    def __copy__(self) -> ChatTokenizer:
        # One of the same tokenizer, whose methods stay those of the first.
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    @property
    def fingerprint(self) -> str:
        """A number for what this tokenizer does: sha256 over the ids of sample texts and a sample chat."""
        turns = [
            Message(role="user", content=[{"type": "image", "content": None}, {"type": "text", "content": _PROBE}]),
            Message(role="assistant", content=_PROBE),
        ]
        chat = self.tokenize(turns, rules=LabelRules(train_on_input=True))
        known = [self.vocab_size, self.num_image_tokens, self.image_token_id, chat.tokens, chat.labels]
        if self.added is not None:
            known += [self.added.words, self.added.first_id, self.added.image_words]
            known += [word for word in (self.added.box_word, self.added.mask_word) if word]
            known += [["region", self.added.regions.num_tokens]] if self.added.regions else []
        if (template := getattr(self.tokenizer, "template_key", None)) is not None:
            known.append(template)
        if self.tiles is not None:
            known += [asdict(self.tiles)]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    @property
    def region_token_id(self) -> int | None:
        """The id at positions of regions; None for a model that reads none."""
        return None if self.added is None else self.added.region_id

    @property
    def placeholders(self) -> set[int]:
        """The ids at positions of images and regions."""
        return {self.image_token_id} | ({self.region_token_id} if self.region_token_id is not None else set())

    @property
    def most_image_tokens(self) -> int:
        """Most placeholder tokens of one image."""
        return self.num_image_tokens * (1 if self.tiles is None else self.tiles.most_pictures)

    def counting(self, num_pictures: Callable[[Tiles, Any], int]) -> ChatTokenizer:
        """Return a tokenizer that knows the images: with tiles, an image's shape decides how many tokens it has.

        Args:
            num_pictures: tiles and content of an image part -> the number of its pictures; unused without tiles.
        """
        if self.tiles is None:
            return self
        known = copy.copy(self)
        known._num_pictures = partial(num_pictures, self.tiles)
        known.without_added = known if self.added is None else self.without_added.counting(num_pictures)
        return known

    def tokenize(
        self, messages: list[Message], max_seq_len: int | None = None, rules: LabelRules | None = None
    ) -> TokenizedChat:
        """Tokenize a whole conversation for training.

        Args:
            messages: the turns.
            max_seq_len: ids to keep; the last kept one becomes the end-of-text token without a label.
            rules: which tokens are learnt.

        Returns:
            The sample.

        Raises:
            UserError: if the tokenizer cannot encode the words, one of several answers is empty, truncation cuts an
                image, or no label is left.
        """
        rules = rules or LabelRules()
        check_answers(messages)
        images, lengths, regions = _images(messages), self.image_lengths(messages), self._regions(messages)
        tokens, labels = self._expand(*self._template(messages, rules), rules, lengths)
        if max_seq_len is not None and len(tokens) > max_seq_len:
            # [Contract] the cut is silent for words but never for an image: its rows would have nowhere to go.
            if self.image_token_id in tokens[max_seq_len - 1 :]:
                raise UserError(
                    f"max_seq_len={max_seq_len} cuts an image: its {lengths[-1]} tokens end at"
                    f" {_last(tokens, self.image_token_id) + 1}; raise dataset.max_seq_len or use fewer image tokens"
                    + (" or vision.tiles" if self.tiles else "")
                )
            if self.region_token_id in tokens[max_seq_len - 1 :]:
                raise UserError(
                    f"max_seq_len={max_seq_len} cuts a region: its tokens end at"
                    f" {_last(tokens, self.region_token_id) + 1}; raise dataset.max_seq_len"
                )
            tokens = [*tokens[: max_seq_len - 1], self.tokenizer.eos_id]
            labels = [*labels[: max_seq_len - 1], IGNORE_INDEX]
        if all(label == IGNORE_INDEX or label in self.stop_tokens for label in labels):
            raise UserError(
                "no token is left to learn: the assistant says nothing"
                + (f", or only after max_seq_len={max_seq_len} tokens" if max_seq_len else "")
            )
        return TokenizedChat(tokens, labels, images, lengths, regions)

    def prompt(self, messages: list[Message], answer_prefix: str = "") -> TokenizedPrompt:
        """Tokenize turns and open the assistant's, exactly as training has it.

        Args:
            messages: the turns so far, the last one the user's.
            answer_prefix: words that the assistant has said already.

        Returns:
            The ids up to where the assistant's next word goes.

        Raises:
            UserError: if the tokenizer cannot encode the words.
        """
        opened = [*messages, Message(role="assistant", content="", masked=False)]
        rules = LabelRules()
        ids, masked = self._template(opened, rules)
        end = _last(ids, MARK_IDS[ANSWER_MARK])
        images, lengths, regions = _images(messages), self.image_lengths(messages), self._regions(messages)
        tokens, _ = self._expand(ids[:end], masked[:end], rules, lengths)
        return TokenizedPrompt(tokens + self.answer(answer_prefix, end_of_turn=False), images, lengths, regions)

    def answer(self, text: str, end_of_turn: bool = True) -> list[int]:
        """Tokenize what the assistant says: the ids that follow :meth:`prompt` in a training sample.

        Args:
            text: the words; they do not depend on the turns before them.
            end_of_turn: whether to append the token that ends the turn.

        Returns:
            The ids; the last one is a stop token if the template ends a turn by one.

        Raises:
            UserError: if the tokenizer cannot encode the words.
        """
        # Options repeat themselves over a benchmark; longer texts, which clients of a server send too, are not kept.
        if len(text) > _LONGEST_KEPT:
            return self._answer(text, end_of_turn)
        if (text, end_of_turn) not in self._answers:
            if len(self._answers) >= _MOST_ANSWERS:
                self._answers.clear()
            self._answers[text, end_of_turn] = self._answer(text, end_of_turn)
        return list(self._answers[text, end_of_turn])

    def _answer(self, text: str, end_of_turn: bool) -> list[int]:
        if not text.strip():
            return []
        turns = [Message(role="user", content="?", masked=True), Message(role="assistant", content=text, masked=False)]
        rules = LabelRules()
        tokens, labels = self._expand(*self._template(turns, rules), rules)
        learnt = [token for token, label in zip(tokens, labels, strict=True) if label != IGNORE_INDEX]
        if not end_of_turn:
            while learnt and learnt[-1] in self.stop_tokens:
                learnt.pop()
        return learnt

    def decode(self, token_ids: list[int]) -> str:
        """Text of an answer: without special tokens, stripped."""
        ids = self.spoken(token_ids, self._special_ids)
        # Llama 3's tokenizer would also take words out that only look like special tokens.
        options = {"skip_special_tokens": False} if self._can_keep_words else {}
        return self.tokenizer.decode(ids, **options).strip() if ids else ""

    def spoken(self, token_ids: list[int], unspoken: Collection[int]) -> list[int]:
        """Leave out the ids that stand for no text, and those in ``unspoken``."""
        added = () if self.added is None else range(self.added.first_id, self.added.end)
        return [token for token in token_ids if (token < self.vocab_size or token in added) and token not in unspoken]

    def _template(self, messages: list[Message], rules: LabelRules) -> tuple[list[int], list[bool]]:
        marked = [_marked(message, rules, self.image_text(IMAGE_MARK)) for message in messages]
        try:
            return self.tokenizer.tokenize_messages(marked)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # no list covers what tokenizers and templates raise
            reason = (str(error).splitlines() or [""])[0]
            raise WordsError(f"the tokenizer cannot encode it ({type(error).__name__}: {reason})") from error

    def image_text(self, image: str) -> str:
        """Put the words that stand around every image around what stands for one."""
        before, after = (self.added and self.added.image_words) or ("", "")
        return f"{before}{image}{after}"

    def image_lengths(self, messages: list[Message]) -> list[int]:
        """Return the number of tokens of each image of the turns."""
        # None stands for any image and has one picture.
        single = self.tiles is None
        pictures = [1 if single or image is None else self._num_pictures(image) for image in _images(messages)]
        return [self.num_image_tokens * count for count in pictures]

    def _regions(self, messages: list[Message]) -> list[Region]:
        """Return the regions of the turns; raise ``UserError`` where the model reads none."""
        regions = regions_of(messages)
        if regions and self.region_token_id is None:
            raise UserError(
                f"its questions name {counted(len(regions), 'region')}, but the model reads none: add region_encoder,"
                " or leave the row out"
            )
        return regions

    def _look_at_template(self) -> tuple[list[int], bool]:
        """Return the special tokens by which an answer ends, and whether anything comes before it."""
        turns = [Message(role="user", content="?", masked=True), Message(role="assistant", content=".", masked=False)]
        ids, masked = self._template(turns, LabelRules())
        end = _last(ids, MARK_IDS[END_MARK])
        behind = [token for token, is_masked in zip(ids[end:], masked[end:], strict=True) if not is_masked]
        ends = [token for token in behind if token in self._word_special_ids][:1]
        special = getattr(self.tokenizer, "special_tokens", None) or {}
        if ends == [special.get("<|end|>")] and "<|assistant|>" in special:
            # Phi-3's generation_config.json also stops where the model opens another turn of the assistant.
            ends.append(special["<|assistant|>"])
        return ends, ids[_last(ids, MARK_IDS[ANSWER_MARK]) - 1] != MARK_IDS[END_MARK]

    def _expand(
        self, ids: list[int], masked: list[bool], rules: LabelRules, image_lengths: Sequence[int] = ()
    ) -> tuple[list[int], list[int]]:
        region = [] if self.added is None else self.added.region_tokens
        special = SpecialIds(self.image_token_id, self._bos_id, self.stop_tokens, region)
        return expand(ids, masked, rules, special, image_lengths)

    def _encode_marked(self, text: str, *args: Any, **options: Any) -> list[int]:
        pieces = ANY_MARK.split(text)
        if len(pieces) == 1:
            return self._encode(text, *args, **options)
        ids: list[int] = []
        encode = self._encode
        for piece in pieces:
            if piece in MARK_IDS:
                ids.append(MARK_IDS[piece])
                if piece not in (IMAGE_MARK, REGION_MARK):
                    encode = self._encode if piece == END_MARK else self._encode_words
            elif piece:
                ids += encode(piece, *args, **options)
        return ids

    def _check_new(self, added: AddedTokens) -> None:
        special = getattr(self.tokenizer, "special_tokens", None) or {}
        for word in added.words:
            if word in special or len(self._plain_ids(check_text(word))) == 1:
                raise UserError(f"words.tokens: {word!r} is one token of the tokenizer already: leave it out")

    def _plain_ids(self, text: str) -> list[int]:
        return self._encode(text, add_bos=False, add_eos=False)


def _marked(message: Message, rules: LabelRules, image: str) -> Message:
    marks = {"image": image, "region": REGION_MARK.join(REGION_WORDS)}
    text = "".join(marks.get(part["type"]) or check_text(part["content"]) for part in message.content)
    mark = ANSWER_MARK if message.role == "assistant" else WORDS_MARK
    masked = message.role != "assistant" and not rules.train_on_input
    return Message(role=role_of(message), content=mark + text.strip() + END_MARK, masked=masked)


def role_of(message: Message) -> Role:
    """Return a message's role, which torchtune annotates as any text."""
    return cast(Role, message.role)


def _images(messages: list[Message]) -> list[Any]:
    return [part["content"] for message in messages for part in message.content if part["type"] == "image"]


def _rebuilt(
    tokenizer: Tokenizer,
    num_image_tokens: int,
    added: AddedTokens | None,
    tiles: Tiles | None,
    num_pictures: Callable[[Any], int],
) -> ChatTokenizer:
    chat = ChatTokenizer(tokenizer, num_image_tokens, added, tiles)
    chat._num_pictures = chat.without_added._num_pictures = num_pictures
    return chat


def _size_unknown(image: Any) -> int:
    # [Contract] a guess would put the tokens of one picture over the words behind another.
    raise ValueError(f"how many pictures {image} has is not known: see ChatTokenizer.counting")


def _last(ids: list[int], wanted: int) -> int:
    return len(ids) - 1 - ids[::-1].index(wanted)
