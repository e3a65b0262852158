"""One row of a data file -> torchtune messages with text and image parts in their order.

Three layouts are read, told apart by their keys: medcap's sharegpt rows and LLaVA's rows (``conversations`` with
``from``/``value``; ``conversatons`` as it stands in a released file), and torchtune/OpenAI rows (``messages`` with
``role``/``content``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.errors import UserError

if TYPE_CHECKING:
    from torchtune.data import Message

PLACEHOLDER = "\u2460"  # medcap's image character, the circled digit one
STYLES = ("auto", "sharegpt", "llava", "coloninst", "messages", "openai")
CONVERSATION_KEYS = ("conversations", "conversatons")
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_LEADING_TAGS = re.compile(r"^(?:\s*<image>)+")
_TRAILING_TAGS = re.compile(r"(?:\s*<image>)+\s*$")
_RUN = re.compile(f"{PLACEHOLDER}+")
FOLDER_IN_META = re.compile(r"(?:^|;)\s*dir=(.*?)(?=;\s*\w+=|;?\s*$)")


@dataclass(frozen=True)
class Record:
    """One row, read and checked.

    Attributes:
        messages: the turns; an image is a content part ``{"type": "image", "content": path}``.
        source: the file it stands in.
        index: its row there, from 0.
    """

    messages: list[Message]
    source: Path
    index: int

    @property
    def images(self) -> list[str]:
        """The images in the order of their placeholders."""
        return [part["content"] for message in self.messages for part in message.content if part["type"] == "image"]

    @property
    def name(self) -> str:
        """How messages to the user call this row."""
        return f"{self.source}, row {self.index}"


def read_record(
    row: Any, source: Path, index: int, find_image: Callable[[str, str | None], Path], style: str = "auto"
) -> Record:
    """Read one row.

    Args:
        row: the decoded JSON value.
        source: the file, for messages to the user.
        index: the row's number from 0, for messages to the user.
        find_image: gives the path of (image, medcap's dir or None).
        style: one of ``STYLES``; ``auto`` goes by the row's keys.

    Returns:
        The record.

    Raises:
        UserError: if the row is not of a known layout, a role is unknown, an image is missing, or the number of
            placeholders differs from the number of images.
    """
    try:
        if not isinstance(row, Mapping):
            raise UserError(f"a row must be an object, not {type(row).__name__}")
        key = _turns_key(row, style)
        turns = row[key]
        if not isinstance(turns, list) or not turns:
            raise UserError(f"'{key}' must be a list with at least one turn")
        paths = [str(find_image(image, folder)) for image, folder in _named_images(row, key, style)]
        messages = _messages_from_parts(turns, find_image) if key == "messages" else _messages_from_turns(turns)
        return Record(_fill_images(messages, paths), source, index)
    except UserError as error:
        raise UserError(f"{source}, row {index}: {error}") from None


def _turns_key(row: Mapping[str, Any], style: str) -> str:
    if style not in STYLES:
        raise UserError(f"conversation_style={style} is unknown: use one of {', '.join(STYLES)}")
    allowed = {"messages": ("messages",), "openai": ("messages",), "auto": (*CONVERSATION_KEYS, "messages")}
    keys = allowed.get(style, CONVERSATION_KEYS)
    for key in keys:
        if key in row:
            return key
    raise UserError(f"there is no '{keys[0]}' in this row (it has: {', '.join(map(str, row)) or 'nothing'})")


def _named_images(row: Mapping[str, Any], key: str, style: str) -> list[tuple[str, str | None]]:
    if key == "messages":
        named = row.get("images") or row.get("image") or []
    else:
        named = row.get("id") if style == "coloninst" or is_coloninst(row) else row.get("image")
        named = named or []
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list) or not all(isinstance(image, str) and image for image in named):
        raise UserError("'image' must be a path or a list of paths")
    meta = row.get("meta")
    if meta is not None and not isinstance(meta, str):
        raise UserError("'meta' must be text like 'dir=./datasets/images'")
    folder = folder_of(meta) if meta else None
    return [(image, folder) for image in named]


def folder_of(meta: str) -> str | None:
    """The folder that medcap's ``meta`` names, as in ``dir=./datasets/images``."""
    found = FOLDER_IN_META.search(meta)
    return found.group(1) if found else None


def is_coloninst(row: Mapping[str, Any]) -> bool:
    """ColonINST opens the file named by ``id``; its ``image`` is only that file's stem."""
    name = row.get("id")
    return isinstance(name, str) and bool(Path(name).suffix) and Path(name).stem == row.get("image")


def _role(turn: Mapping[str, Any], key: str) -> str:
    role = ROLES.get(str(turn.get(key)).lower())
    if role is None:
        raise UserError(f"'{key}' is {turn.get(key)!r}: known are {', '.join(sorted(ROLES))}")
    return role


def _messages_from_turns(turns: list[Any]) -> list[Message]:
    from torchtune.data import Message  # on first use: the constants above serve programs that need no torch

    messages = []
    for turn in turns:
        if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
            raise UserError("each turn needs 'from' and 'value'")
        if isinstance(turn["value"], (dict, list)) or turn["value"] is None:
            raise UserError(f"'value' must be text, not {type(turn['value']).__name__}")
        # Released files hold bare numbers as values.
        messages.append(Message(role=_role(turn, "from"), content=split_images(str(turn["value"]))))
    return messages


def _messages_from_parts(turns: list[Any], find_image: Callable[[str, str | None], Path]) -> list[Message]:
    from torchtune.data import Message

    messages = []
    for turn in turns:
        if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
            raise UserError("each message needs 'role' and 'content'")
        content = turn["content"]
        if isinstance(content, Mapping) or content is None:
            raise UserError(f"'content' must be text or a list of parts, not {type(content).__name__}")
        if not isinstance(content, list):
            messages.append(Message(role=_role(turn, "role"), content=split_images(str(content))))
            continue
        parts: list[dict[str, Any]] = []
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") not in ("text", "image"):
                raise UserError("a content part needs 'type': 'text' or 'image'")
            value = part.get("content", part.get("text", part.get("image")))
            if isinstance(value, (dict, list)):
                raise UserError(f"a content part must hold text or a path, not {type(value).__name__}")
            if part["type"] == "text":
                parts += split_images(str(value or ""))
            else:
                parts.append({"type": "image", "content": str(find_image(str(value), None)) if value else None})
        messages.append(Message(role=_role(turn, "role"), content=parts))
    return messages


def split_images(text: str) -> list[dict[str, Any]]:
    """Split a turn's text at its image placeholders.

    A run of medcap's character (any length, anywhere) is one image; so is LLaVA's ``<image>``, but only at the
    start or the end of the turn: in the middle of a sentence it is a word that somebody wrote.

    Args:
        text: the turn.

    Returns:
        torchtune content parts; an image part holds None until it is given its path.
    """
    leading = _LEADING_TAGS.match(text)
    head, text = (leading.group(), text[leading.end() :]) if leading else ("", text)
    trailing = _TRAILING_TAGS.search(text)
    text, tail = (text[: trailing.start()], trailing.group()) if trailing else (text, "")
    parts: list[dict[str, Any]] = [{"type": "image", "content": None}] * head.count("<image>")
    position = 0
    for run in _RUN.finditer(text):
        parts.append({"type": "text", "content": text[position : run.start()]})
        parts.append({"type": "image", "content": None})
        position = run.end()
    # The white space between words and a trailing tag belongs to the words.
    space = tail[: len(tail) - len(tail.lstrip())]
    parts.append({"type": "text", "content": text[position:] + space})
    parts += [{"type": "image", "content": None}] * tail.count("<image>")
    kept = [part for part in parts if part["type"] == "image" or part["content"]]
    return [dict(part) for part in kept] or [{"type": "text", "content": ""}]


def _fill_images(messages: list[Message], paths: list[str]) -> list[Message]:
    empty = [
        part for message in messages for part in message.content if part["type"] == "image" and part["content"] is None
    ]
    # [Contract] one placeholder for each image: a mismatch would show a question the wrong picture.
    if len(empty) != len(paths):
        raise UserError(f"{len(empty)} image placeholder(s) but {len(paths)} image(s)")
    for part, path in zip(empty, paths, strict=True):
        part["content"] = path
    for before, message in zip([None, *messages[:-1]], messages, strict=True):
        if before is not None and before.role == message.role == "assistant":
            raise UserError("two assistant turns in a row: join them")
        message.masked = message.role != "assistant"
    return messages
