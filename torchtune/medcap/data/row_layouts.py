"""One row of a data file -> torchtune messages with text and image parts in their order.

Three layouts are read, distinguished by their keys: medcap 2024's sharegpt rows and LLaVA's rows (``conversations``
with ``from``/``value``; a released file spells it ``conversatons``), and torchtune/OpenAI rows (``messages`` with
``role``/``content``). LLaMA-Factory's rows are either of them with ``images`` and ``system`` next to the turns.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.data.boxes.box import AbsentBox, Box
from medcap.data.images.row_entry import MASK_KEYS, VIEW_KEYS, image_entries
from medcap.errors import UserError
from medcap.plurals import counted

if TYPE_CHECKING:
    from torchtune.data import Message, Role

    from medcap.data.images.reference import ImageRef
    from medcap.data.images.views import View
    from medcap.data.regions.region import Region

PLACEHOLDER = "\u2460"  # medcap 2024's image character, the circled digit one
STYLES = ("auto", "sharegpt", "llava", "coloninst", "messages", "openai")
CONVERSATION_KEYS = ("conversations", "conversatons")
IMAGE_FIELDS = ("image", "images", "img")  # next to the turns
# Other fields that may occur and that say or show something: leaving them out would teach another conversation.
_OTHER_IMAGE_FIELDS = (
    *("image_path", "image_paths", "image_name", "image_file", "image_files", "image_url", "image_urls"),
    *("img_name", "img_path", "img_paths", "picture", "pictures"),
)
_UNREAD_FIELDS = ("system_prompt", "video", "videos", "audio", "audios", "tools")
_UNREAD_IN_TURNS = (*IMAGE_FIELDS, *_OTHER_IMAGE_FIELDS, "video", "videos", "audio", "audios", "tool_calls")
ROLES: dict[str, Role] = {
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
        messages: the turns; an image is a content part ``{"type": "image", "content": ImageRef}``.
        source: the file it is in.
        index: its row there, from 0.
        boxes: the boxes that its answers name by a word such as ``<BOX>``, in order.
        masks: the masks that they name by ``<SEG>`` likewise; None for one of what the image does not show.
    """

    messages: list[Message]
    source: Path
    index: int
    boxes: tuple[Box | AbsentBox, ...] = ()
    masks: tuple[Region | None, ...] = ()

    @property
    def images(self) -> list[ImageRef]:
        """The images in the order of their placeholders."""
        return [part["content"] for message in self.messages for part in message.content if part["type"] == "image"]

    @property
    def name(self) -> str:
        """How messages to the user call this row."""
        return f"{self.source}, row {self.index}"


def read_record(
    row: Any,
    source: Path,
    index: int,
    find_image: Callable[[str, str | None], Path],
    style: str = "auto",
    view: View | None = None,
) -> Record:
    """Read one row.

    Args:
        row: the decoded JSON value.
        source: the file, for messages to the user.
        index: the row's number from 0, for messages to the user.
        find_image: returns the path for (image, medcap 2024's dir or None).
        style: one of ``STYLES``; ``auto`` decides by the row's keys.
        view: how its images are looked at where the row does not say it; None is the default view.

    Returns:
        The record. A reference may mean several frames; :func:`medcap.data.images.expansion.expand_images` makes
        several images of it.

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
        named = _named_images(row, key, style)
        if named or key == "messages":  # in a row of text alone, the keys may mean anything
            view = _view(row, view)

        def refer(image: str, own: Mapping[str, Any], folder: str | None = None) -> ImageRef:
            return _reference(image, folder, own, _view(own, view), find_image)

        images = [refer(image, own, folder) for image, folder, own in named]
        messages = _messages_from_parts(turns, refer) if key == "messages" else _messages_from_turns(turns)
        shown = [part["content"] for part in _all_parts(messages) if part["type"] == "image"]
        _check_other_fields(row, key, has_images=bool(images) or any(shown))
        return Record(_fill_images(_with_system(row, messages), images), source, index)
    except UserError as error:
        raise UserError(f"{source}, row {index}: {error}") from None


def _view(given: Mapping[str, Any], default: View | None) -> View | None:
    """Return the view that the keys of a row, an image or a part say; None for the default one."""
    if not any(given.get(key) is not None for key in VIEW_KEYS):
        return default
    # On first use: the constants above serve programs without numpy.
    from medcap.data.images.view_keys import read_view
    from medcap.data.images.views import DEFAULT_VIEW

    return read_view(given, default or DEFAULT_VIEW)


def _reference(
    image: str,
    folder: str | None,
    own: Mapping[str, Any],
    view: View | None,
    find_image: Callable[[str, str | None], Path],
) -> ImageRef:
    from medcap.data.images.reference import ImageRef

    path = str(find_image(image, folder))
    reference = ImageRef(path) if view is None else ImageRef(path, view)
    given = [key for key in MASK_KEYS if own.get(key) is not None]
    if not given:
        return reference
    if len(given) > 1:
        raise UserError(f"'image' holds an object with {' and '.join(given)}: keep one of them")
    from medcap.data.regions.mask_drawing import MaskDrawing
    from medcap.data.regions.region import MaskFile, Region, region_from_json

    shape = region_from_json(own[given[0]], given[0]).shape
    if isinstance(shape, MaskFile):
        shape = replace(shape, path=str(find_image(shape.path, folder)))
    return replace(reference, drawing=MaskDrawing(Region(shape), alone=given[0] == "mask_only"))


def _turns_key(row: Mapping[str, Any], style: str) -> str:
    if style not in STYLES:
        raise UserError(f"conversation_style={style} is unknown: use one of {', '.join(STYLES)}")
    allowed = {"messages": ("messages",), "openai": ("messages",), "auto": (*CONVERSATION_KEYS, "messages")}
    keys = allowed.get(style, CONVERSATION_KEYS)
    there = [key for key in keys if key in row]
    if not there:
        raise UserError(f"there is no '{keys[0]}' in this row (it has: {_names(row)})")
    held = [key for key in there if row[key]] or there
    if len(held) > 1:
        raise UserError(f"there are turns under '{held[0]}' and under '{held[1]}': keep one of them")
    return held[0]


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(key if key.isprintable() else repr(key) for key in map(str, row)) or "nothing"


def _named_images(row: Mapping[str, Any], key: str, style: str) -> list[tuple[str, str | None, Mapping[str, Any]]]:
    if key != "messages" and (style == "coloninst" or is_coloninst(row)):
        fields = ["id"]
    else:
        fields = [field for field in IMAGE_FIELDS if row.get(field) not in (None, "", [])]
    found = [_paths(row, field) for field in fields]
    if any(paths != found[0] for paths in found):
        raise UserError(f"'{fields[0]}' and '{fields[1]}' name different images: keep one of them")
    meta = row.get("meta")
    if meta is not None and not isinstance(meta, str):
        raise UserError("'meta' must be text like 'dir=./datasets/images'")
    folder = folder_of(meta) if meta else None
    return [(path, folder, own) for path, own in (found[0] if found else [])]


def _paths(row: Mapping[str, Any], field: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the path of each image, and the object that may say how it is looked at."""
    named = row.get(field)
    return [] if named is None else image_entries(named, "image" if field == "id" else field)


def _check_other_fields(row: Mapping[str, Any], key: str, has_images: bool) -> None:
    for field in _UNREAD_FIELDS:
        if _holds_something(row.get(field)):
            instead = "name it 'system'" if field == "system_prompt" else "remove it, or the row"
            raise UserError(f"'{field}' beside '{key}' is not read: {instead}")
    for field in () if has_images else _OTHER_IMAGE_FIELDS:
        if _holds_something(row.get(field)):
            raise UserError(f"'{field}' beside '{key}' is not read: name the images under 'image' or 'images'")


def _holds_something(value: Any) -> bool:
    # "[]" is what LLaMA-Factory's rows have for no tools.
    return bool(value) and not (isinstance(value, str) and value.strip() in ("", "[]", "{}"))


def _with_system(row: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    """Return the turns after the text under ``system``."""
    from torchtune.data import Message

    system = row.get("system")
    if system is None or system == "":
        return messages
    parts = split_images(text_of_value(system, "system"))
    if messages[0].role == "system":
        if messages[0].content == parts:
            return messages
        raise UserError("'system' stands beside a system turn: keep one of them")
    return [Message(role="system", content=parts), *messages]


def text_of_value(value: Any, name: str) -> str:
    """Return the words of a JSON value; released files hold bare numbers where text is meant.

    Args:
        value: text, or a number.
        name: name of the field, for messages.

    Raises:
        UserError: for anything else. pandas writes NaN for an empty cell, and true is not a text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, float)) and (isinstance(value, bool) or not math.isfinite(value)):
        raise UserError(f"'{name}' must be text, not {json.dumps(value)}")
    if not isinstance(value, (int, float)):
        raise UserError(f"'{name}' must be text, not {type(value).__name__}")
    return str(value)


def folder_of(meta: str) -> str | None:
    """Return the folder that medcap 2024's ``meta`` names, as in ``dir=./datasets/images``."""
    found = FOLDER_IN_META.search(meta)
    return found.group(1) if found else None


def is_coloninst(row: Mapping[str, Any]) -> bool:
    """ColonINST opens the file named by ``id``; its ``image`` is only that file's stem."""
    name = row.get("id")
    return isinstance(name, str) and bool(Path(name).suffix) and Path(name).stem == row.get("image")


def _role(turn: Mapping[str, Any], key: str) -> Role:
    role = ROLES.get(str(turn.get(key)).lower())
    if role is None:
        raise UserError(f"'{key}' is {repr(turn.get(key))[:60]}: known are {', '.join(sorted(ROLES))}")
    return role


def _all_parts(messages: list[Message]) -> list[dict[str, Any]]:
    return [part for message in messages for part in message.content]


def _check_turn(turn: Any, keys: tuple[str, str], problem: str) -> None:
    if not isinstance(turn, Mapping) or any(key not in turn for key in keys):
        raise UserError(problem)
    for field in _UNREAD_IN_TURNS:
        if _holds_something(turn.get(field)):
            raise UserError(f"'{field}' in a turn is not read: images stand beside the turns, under 'image'")


def _messages_from_turns(turns: list[Any]) -> list[Message]:
    from torchtune.data import Message  # on first use: the constants above serve programs that need no torch

    messages = []
    for turn in turns:
        _check_turn(turn, ("from", "value"), "each turn needs 'from' and 'value'")
        messages.append(Message(role=_role(turn, "from"), content=split_images(text_of_value(turn["value"], "value"))))
    return messages


def _messages_from_parts(turns: list[Any], refer: Callable[[str, Mapping[str, Any]], ImageRef]) -> list[Message]:
    from torchtune.data import Message

    messages = []
    for turn in turns:
        _check_turn(turn, ("role", "content"), "each message needs 'role' and 'content'")
        content = turn["content"]
        if isinstance(content, Mapping) or content is None:
            raise UserError(f"'content' must be text or a list of parts, not {type(content).__name__}")
        if isinstance(content, list):
            parts = [part for given in content for part in _parts(given, refer)]
        else:
            parts = split_images(text_of_value(content, "content"))
        messages.append(Message(role=_role(turn, "role"), content=parts))
    return messages


def _parts(part: Any, refer: Callable[[str, Mapping[str, Any]], ImageRef]) -> list[dict[str, Any]]:
    """One content part of a file: an image, or text that may hold placeholders."""
    if not isinstance(part, Mapping) or part.get("type") not in ("text", "image"):
        raise UserError("a content part needs 'type': 'text' or 'image'")
    # Tables give every part every key, with null where a part has no value.
    key = next((key for key in ("content", "text", "image") if part.get(key) is not None), None)
    value = None if key is None else part[key]
    if isinstance(value, (dict, list)):
        raise UserError(f"a content part must hold text or a path, not {type(value).__name__}")
    if part["type"] == "text":
        return split_images(text_of_value(value, key or "text"))
    if value is not None and not isinstance(value, str):
        raise UserError(f"an image part must hold a path, not {json.dumps(value)}")
    return [{"type": "image", "content": refer(value, part) if value else None}]


def split_images(text: str) -> list[dict[str, Any]]:
    """Split a turn's text at its image placeholders.

    A run of medcap 2024's character (any length, anywhere) is one image; so is LLaVA's ``<image>``, but only at the
    start or the end of the turn: in the middle of a sentence it is an ordinary word.

    Args:
        text: the turn.

    Returns:
        torchtune content parts; an image part holds None until it is given its image.
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


def _fill_images(messages: list[Message], images: list[ImageRef]) -> list[Message]:
    empty = [part for part in _all_parts(messages) if part["type"] == "image" and part["content"] is None]
    for number, message in enumerate(messages, start=1):
        if message.role == "assistant" and any(part["type"] == "image" for part in message.content):
            raise UserError(
                f"turn {number}, the assistant's, holds an image or a placeholder for one: images can only be shown to"
                " it, in the turns before"
            )
    # [Contract] one placeholder for each image: a mismatch would show a question the wrong picture.
    if len(empty) != len(images):
        numbers = f"{counted(len(empty), 'image placeholder')} but {counted(len(images), 'image')}"
        raise UserError(f"{numbers}{_hint(messages, empty, images)}")
    for part, image in zip(empty, images, strict=True):
        part["content"] = image
    for before, message in zip([None, *messages[:-1]], messages, strict=True):
        if before is not None and before.role == message.role == "assistant":
            raise UserError("two assistant turns in a row: join them")
        message.masked = message.role != "assistant"
    return messages


def _hint(messages: list[Message], empty: list[Any], images: list[ImageRef]) -> str:
    texts = [part["content"] for part in _all_parts(messages) if part["type"] == "text"]
    if any("<image>" in text for text in texts):
        return "; <image> counts only at the start or the end of a turn, elsewhere it is a word"
    if len(empty) < len(images):
        return "; write <image> at the start of the turn that shows it"
    return "" if images else "; name the images under 'image'"
