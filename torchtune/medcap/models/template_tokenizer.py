"""A language model's own tokenizer.json and chat template, as a torchtune tokenizer."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from torchtune.data import Message, truncate

from medcap.data.plain_words import TAG
from medcap.errors import UserError
from medcap.models.added_marks import find_marks, inside_marks, without_marks
from medcap.models.chat_template import PLAIN, ChatTemplate
from medcap.models.llama3_tokenizer_file import find_tokenizer_file, is_tiktoken, tokenizer_model
from medcap.models.tokenizer_folder import TOKENIZER_JSON, TokenizerFolder
from medcap.models.tokenizers import llama3_tokenizer

if TYPE_CHECKING:
    pass

_BREAK = "\n"
_MOST_KEPT = 1000
_NOT_OPTIONS = frozenset({"messages", "tools", "documents", "add_generation_prompt", "strftime_now"})


@dataclass(frozen=True)
class _Gap:
    """Text of the template before, between or after the words of turns.

    Attributes:
        closing: ids that belong to the turn before it.
        opening: ids that belong to the turn after it.
        after: line breaks that may be part of the token of the last word before it.
        before: blanks that are part of the token of the first word after it.
        goes_on: whether the next words follow text, so that the tokenizer puts no blank before them.
    """

    closing: list[int]
    opening: list[int]
    after: str
    before: str
    goes_on: bool


class TransformersTokenizer:
    """The tokenizer of a Hugging Face folder, with its chat template.

    Words never give a special token, nor any other token by which the template marks something: only the template's
    own text does. The ids of a conversation are those of transformers' ``apply_chat_template``, with these exceptions:
    every answer is opened as the last one is, so that a prompt begins its training sample; system words that the
    template leaves out, or puts behind the first answer, stand before the first question; a template that writes
    today's date gets a fixed one; where the token that opens the next question ends an answer (GLM), the last answer
    has it too.

    Args:
        folder: the files.
        template: the chat template.
        max_seq_len: tokens after which a conversation is cut.

    Attributes:
        special_tokens: name -> id of the tokens that are no text: those that the file says so of, and the stop tokens.
        bos_id: id of the token that begins a text; None without one, and where the same token ends an answer.
        eos_id: id of the token that ends a text, or else an answer.
        stop_tokens: ids that end an answer.
        vocab_size: number of ids, special ones included.

    Raises:
        UserError: if the template cannot be split into turns, or nothing ends its answers.
    """

    def __init__(self, folder: TokenizerFolder, template: ChatTemplate, max_seq_len: int | None = None) -> None:
        self.max_seq_len = max_seq_len
        self._template = template
        self._tokenizer = folder.tokenizer
        added = self._tokenizer.get_added_tokens_decoder()
        self._mark_ids = frozenset(find_marks(added, template.text))
        self._words = without_marks(self._tokenizer, [added[token] for token in self._mark_ids])
        self._break_ids = self._words.encode(_BREAK, add_special_tokens=False).ids
        self._has_prefix = self._words.encode("a", add_special_tokens=False).ids != self._after_break("a")
        self._tags: re.Pattern[str] | None = None
        self._gaps: dict[tuple[str, ...], list[_Gap]] = {}
        self._end: int | None = None
        ends = self._look_for_ends()
        self._tags = self._text_tags({token.content for token in added.values()})
        known = {name: self._tokenizer.token_to_id(text) for name, text in folder.names.items()}
        bos, eos, pad = (known.get(f"{name}_token") for name in ("bos", "eos", "pad"))
        self.eos_id: int = ends[0] if eos is None else eos
        self.stop_tokens = sorted({*ends, self.eos_id, *folder.stop_ids})
        # [Contract] a chat tokenizer never learns the token that begins a text: it must not be one to learn (OLMo).
        self.bos_id: int | None = None if bos in self.stop_tokens else bos
        self.pad_id: int = self.eos_id if pad is None else pad
        special = {token.content: number for number, token in added.items() if token.special}
        special |= {self._tokenizer.id_to_token(token): token for token in self.stop_tokens}
        ids = self._reachable(set(self._tokenizer.get_vocab().values()), folder.num_rows)
        self.special_tokens = {name: token for name, token in special.items() if token in ids}
        self.vocab_size = max(ids) + 1

    @property
    def chat_template(self) -> str:
        """The chat template, in Jinja2."""
        return self._template.text

    @property
    def template_key(self) -> str:
        """What decides how conversations of every kind are written, beside the ids of a sample chat."""
        return self._template.key

    def encode(
        self, text: str, add_bos: bool = True, add_eos: bool = True, trim_leading_whitespace: bool = False
    ) -> list[int]:
        """Encode words: what looks like a special token in them stays words.

        Args:
            text: the words.
            add_bos: whether to begin with the token that begins a text, if there is one.
            add_eos: whether to end with the token that ends a text.
            trim_leading_whitespace: whether the words go on after others: a tokenizer that puts a blank before a text
                then puts none.

        Returns:
            The ids.
        """
        ids: list[int] = []
        for number, piece in enumerate(self._tags.split(text) if self._tags else [text]):
            # A tag of the template is spelled letter by letter, which gives other ids than the template's own.
            for part in piece if number % 2 else [piece] if piece or not number else []:
                goes_on = self._has_prefix and (trim_leading_whitespace or bool(ids))
                ids += self._after_break(part) if goes_on else self._words.encode(part, add_special_tokens=False).ids
        begin = [self.bos_id] if add_bos and self.bos_id is not None else []
        return [*begin, *ids, *([self.eos_id] if add_eos else [])]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ids.

        Args:
            token_ids: the ids.
            skip_special_tokens: whether to leave out special tokens.
        """
        special = set(self.special_tokens.values()) if skip_special_tokens else ()
        return self._words.decode([token for token in token_ids if token not in special], skip_special_tokens=False)

    def tokenize_messages(self, messages: Sequence[Message], add_eos: bool = True) -> tuple[list[int], list[bool]]:
        """Tokenize a conversation by the chat template.

        Args:
            messages: the turns.
            add_eos: not used: the template says what ends a conversation.

        Returns:
            The ids, and for each whether it is masked.

        Raises:
            UserError: if the template cannot be split into turns.
        """
        ids: list[int] = []
        masked: list[bool] = []
        gaps = self._read_gaps([message.role for message in messages])
        for message, gap, next_gap in zip(messages, gaps, gaps[1:], strict=False):
            text = inside_marks(message.text_content, gap.before, next_gap.after)
            words = self.encode(text, add_bos=False, add_eos=False, trim_leading_whitespace=gap.goes_on)
            part = [*gap.opening, *words, *next_gap.closing]
            ids += part
            masked += [message.masked] * len(part)
        masked[:1] = [True] * len(masked[:1])  # nothing could predict it
        if self.max_seq_len is not None:
            return truncate(ids, self.max_seq_len, self.eos_id), truncate(masked, self.max_seq_len, True)
        return ids, masked

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # A pickled tokenizer of the library loses this setting.
        self._words.encode_special_tokens = True

    def _read_gaps(self, roles: list[str]) -> list[_Gap]:
        """Return what stands before, between and after the words of turns; it depends on their roles alone."""
        key = tuple(roles)
        if key not in self._gaps:
            if len(self._gaps) >= _MOST_KEPT:  # clients of a server choose the roles
                self._gaps.clear()
            around = zip([None, *roles], [*roles, None], self._template.gaps(roles), strict=True)
            gaps = [self._read_gap(text, role, next_role) for role, next_role, text in around]
            if any(role == "assistant" and not gap.closing for role, gap in zip(roles, gaps[1:-1], strict=False)):
                raise self._no_end(roles)
            self._gaps[key] = gaps
        return self._gaps[key]

    def _read_gap(self, text: str, role: str | None, next_role: str | None) -> _Gap:
        """Encode text of the template, and divide it between two turns.

        The first one gets all up to its first mark, and the white space after that.

        Args:
            text: the text.
            role: role of the turn before it; None at the beginning.
            next_role: role of the turn after it; None at the end.
        """
        after = before = ""
        if role not in (None, "assistant"):
            after = text[: len(text) - len(text.lstrip(_BREAK))]
            text = text.lstrip(_BREAK)
        ids, end = self._encode_gap(text, role is not None)
        bare = text.rstrip(" ")
        if next_role is not None and bare != text:
            # A mark may take the blanks after it (Phi-3).
            bare_ids, bare_end = self._encode_gap(bare, role is not None)
            if bare_ids != ids:
                before, ids, end = text[len(bare) :], bare_ids, bare_end
        if role is None:
            end = 0
        elif next_role is None:
            ids = [*ids, self._end] if role == "assistant" and end == 0 and self._end is not None else ids
            end = len(ids)
        elif end == 0 and role != "assistant":
            end = len(ids)
        goes_on = not self._begins_afresh(ids[-1]) if ids else role is not None
        return _Gap(ids[:end], ids[end:], after, before, goes_on)

    def _encode_gap(self, text: str, goes_on: bool) -> tuple[list[int], int]:
        """Encode text of the template.

        Args:
            text: the text.
            goes_on: whether words come before it.

        Returns:
            The ids, and how many of them come up to the first mark and the white space after it; 0 without a mark.
        """
        lead = _BREAK if goes_on and self._has_prefix else ""
        encoded = self._tokenizer.encode(lead + text, add_special_tokens=False)
        skipped = len(self._break_ids) if lead and encoded.ids[: len(self._break_ids)] == self._break_ids else 0
        if lead and not skipped:
            lead, encoded = "", self._tokenizer.encode(text, add_special_tokens=False)
        ids = encoded.ids[skipped:]
        end = next((number + 1 for number, token in enumerate(ids) if token in self._mark_ids), 0)
        while 0 < end < len(ids) and (lead + text)[slice(*encoded.offsets[skipped + end])].isspace():
            end += 1
        return ids, end

    def _after_break(self, text: str) -> list[int]:
        """Encode words as if others came before them, as transformers does for a piece of a chat."""
        ids = self._words.encode(_BREAK + text, add_special_tokens=False).ids
        if ids[: len(self._break_ids)] == self._break_ids:
            return ids[len(self._break_ids) :]
        return self._words.encode(text, add_special_tokens=False).ids

    def _begins_afresh(self, token: int) -> bool:
        """Return whether the tokenizer puts a blank before words that follow a token of the template."""
        if not self._has_prefix or token not in self._mark_ids:
            return False
        ids = self._tokenizer.encode(f"{self._tokenizer.id_to_token(token)}a", add_special_tokens=False).ids
        return ids[ids.index(token) + 1 :] == self._words.encode("a", add_special_tokens=False).ids

    def _look_for_ends(self) -> list[int]:
        """Return the tokens that end an answer: the last one's first, and that of an earlier one."""
        *_, last = self._read_gaps(["user", "assistant"])
        try:
            earlier = self._read_gaps(["user", "assistant", "user", "assistant"])[2]
        except Exception:  # a template for one question says so where it gets several
            earlier = last
        ends = [[token for token in gap.closing if token in self._mark_ids][:1] for gap in (last, earlier)]
        if not ends[0] and ends[1]:
            self._end = ends[1][0]
            self._gaps.clear()
        found = [token for end in ends for token in end]
        if not found:
            raise self._no_end(["user", "assistant"])
        return list(dict.fromkeys(found))

    def _text_tags(self, tokens: Collection[str]) -> re.Pattern[str] | None:
        """Return the tags that the template writes as ordinary text, such as ``[INST]`` (the first Mistral)."""
        gaps: list[str] = []
        for roles in (["system", "user", "assistant"], ["user", "assistant", "user"]):
            try:
                gaps += self._template.gaps(roles)
            except Exception:  # some templates refuse a system turn, or a second question
                continue
        tags = {tag for gap in gaps for tag in TAG.findall(gap)}.difference(tokens)
        longest_first = sorted(tags, key=lambda tag: (-len(tag), tag))
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if tags else None

    def _no_end(self, roles: Sequence[str]) -> UserError:
        return UserError(
            f"{self._template.place}: this chat template cannot be split into turns: in {', '.join(roles)} it puts no"
            " special token after an answer, so nothing says where it ends; give another one in"
            " tokenizer.chat_template"
        )

    def _reachable(self, ids: set[int], num_rows: int | None) -> set[int]:
        """Leave out ids without an embedding row, if neither words nor the template's turns make them (Gemma 3)."""
        used = {token for gaps in self._gaps.values() for gap in gaps for token in (*gap.closing, *gap.opening)}
        used |= {*self.stop_tokens, self.eos_id} | (ids - self._mark_ids)
        return {token for token in ids if num_rows is None or token < num_rows or token in used}


def transformers_tokenizer(
    path: str,
    chat_template: str | None = None,
    template_options: Mapping[str, Any] | None = None,
    today: str = "2024-07-26",
    max_seq_len: int | None = None,
) -> TransformersTokenizer:
    """Open the tokenizer of any Hugging Face folder that has a tokenizer.json, with its chat template.

    Args:
        path: the folder, or its tokenizer.json.
        chat_template: a file with a Jinja2 chat template, the template itself, or ``plain`` for a language model that
            was trained on plain text; None takes the folder's.
        template_options: what the template reads beside the messages, such as ``{enable_thinking: false}``.
        today: day that a template gets which writes the date. It is the same in training and in prompts; the default is
            the one that Llama 3.1's template falls back to.
        max_seq_len: tokens after which a conversation is cut.

    Returns:
        The tokenizer.

    Raises:
        UserError: if a file is missing or damaged, or the template cannot be used.
    """
    folder = TokenizerFolder.open(path)
    text, place = folder.chat_template(chat_template)
    try:
        day = date.fromisoformat(str(today))
    except ValueError as error:
        raise UserError(f"tokenizer.today={today} is not a date such as 2024-07-26") from error
    options = dict(template_options or {})
    variables = dict(folder.names)
    if text == PLAIN and not folder.adds_bos():
        variables["bos_token"] = ""
    template = ChatTemplate(text, variables, options, day, place)
    read = template.variables - _NOT_OPTIONS
    for name in options:
        if name not in read:
            raise UserError(
                f"tokenizer.template_options.{name}: {place} reads no such variable; it reads {', '.join(sorted(read))}"
            )
    for name in ("bos_token", "eos_token"):
        if name in read and name not in variables | options:
            raise UserError(
                f"{place}: the chat template writes {name}, and no file of {folder.folder} says which token that is:"
                f" give it as tokenizer.template_options={{{name}: ...}}"
            )
    return TransformersTokenizer(folder, template, max_seq_len)


def tokenizer_of(path: str) -> Any:
    """Open the tokenizer that a path alone names.

    Args:
        path: a model's folder, or its tokenizer file.

    Returns:
        Llama 3's tokenizer, or for another family the one of tokenizer.json with its chat template.

    Raises:
        UserError: if a file is missing or damaged, or there is no chat template.
    """
    file = find_tokenizer_file(path)
    own = file if file.suffix == ".json" else file.with_name(TOKENIZER_JSON)
    if own.is_file() and (file == own or not is_tiktoken(file)) and tokenizer_model(own) is None:
        return transformers_tokenizer(str(own))
    return llama3_tokenizer(path)
