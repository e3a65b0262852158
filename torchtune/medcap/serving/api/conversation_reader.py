"""A checked request -> the messages that the model was trained on, its images decoded."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import abc
from collections.abc import Iterator
from typing import Any

from PIL import Image
from torchtune.data import Message

from medcap.data.boxes.frame import MAX_ASPECT
from medcap.data.chat_marks import check_text
from medcap.data.images.raster import FORMATS
from medcap.data.images.reader import ImageReader
from medcap.data.images.view_keys import read_view
from medcap.data.images.views import DEFAULT_VIEW, View
from medcap.data.row_layouts import PLACEHOLDER
from medcap.errors import UserError, ViewError, ViewKeyError
from medcap.generation.generator import Generator
from medcap.generation.request import PreparedImage
from medcap.generation.typed_placeholders import Placed, find_placeholders
from medcap.plurals import counted
from medcap.serving.api.api_error import ApiError, bad_request
from medcap.serving.api.chat_body import SYSTEM, ChatBody, ChatMessage, Part, ViewFields
from medcap.serving.api.data_url import read_data_url
from medcap.serving.api.request_regions import RequestRegions
from medcap.serving.limits import Limits

# The views that parts of a request ask for, by the parts' fields.
Views = dict[str, View]

logger = logging.getLogger(__name__)


class ConversationReader:
    """Makes messages of requests to one run.

    [Contract] what a request names is never opened: the reader has no roots, and only bytes that came with the request
    are decoded.

    Args:
        generator: prepares images for its tower.
        limits: bounds.
    """

    def __init__(self, generator: Generator, limits: Limits) -> None:
        self._generator = generator
        self._limits = limits
        self._images = ImageReader([], max_pixels=limits.max_pixels, max_bytes=limits.max_body_bytes)

    def read(self, body: ChatBody, request_id: str) -> list[Message]:
        """Decode images and put words and images into the order and form of training.

        Args:
            body: the request.
            request_id: id of the request, for the log.

        Returns:
            The turns; images are :class:`PreparedImage`.

        Raises:
            ApiError: 400, if a turn is out of place, the text too long, or an image or a region cannot be taken.
        """
        num_images = num_characters = 0
        views: Views = {}
        for index, message in enumerate(body.messages):
            self._check_message(message, f"messages.{index}.content", views)
            num_images += len(message.images)
            num_characters += len(message.words)
        room = _Room(num_images, self._limits.max_images)
        if num_characters > self._limits.max_characters:
            raise too_long(self._generator.max_seq_len)
        reads_regions = self._generator.tokenizer.region_token_id is not None
        regions = RequestRegions(reads_regions, self._limits.max_regions, self._images, request_id)
        regions.check(body)
        turns = [
            (f"messages.{index}", message, self._message(f"messages.{index}.content", message, request_id, views, room))
            for index, message in _turns_to_answer(body)
        ]
        return regions.place(turns)

    def _check_message(self, message: ChatMessage, field: str, views: Views) -> None:
        for index, part in enumerate(message.content):
            self._check_part(part, message.role, f"{field}.{index}")
            if part.view is not None:
                views[f"{field}.{index}"] = _view(part.view, f"{field}.{index}.view")
        if message.refusal and message.role != "assistant":
            raise bad_request("only the assistant's messages may hold a refusal", field)
        words = message.words
        if message.role == "user":
            named, given = _num_placeholders(message), len(message.images)
            if named > given:
                raise bad_request(
                    f"'{field}' has {counted(named, 'image placeholder')} (<image> first or last, {PLACEHOLDER}"
                    f" anywhere) but {counted(given, 'image')}: send images as 'image_url' parts, or leave the"
                    " placeholder out",
                    field,
                )
            words = words.replace(PLACEHOLDER, "")
        try:
            check_text(words)
        except UserError:
            raise bad_request(
                f"'{field}' holds a character that stands for an image; send images as 'image_url' parts", field
            ) from None

    def _check_part(self, part: Part, role: str, field: str) -> None:
        for name in ("text", "image_url", "refusal"):
            if (getattr(part, name) is None) == (name == part.type):
                raise bad_request(f"'{field}' must have '{part.type}' and nothing else", field)
        if part.view is not None and part.type != "image_url":
            raise bad_request(f"'{field}' has a view, which only images have", field)
        if part.type == "image_url" and role != "user":
            raise bad_request("only the user's messages may hold images", field)
        if part.type == "refusal" and role != "assistant":
            raise bad_request("only the assistant's messages may hold a refusal", field)

    def _message(self, field: str, message: ChatMessage, request_id: str, views: Views, room: _Room) -> Message:
        if message.role != "user":
            role = "system" if message.role in SYSTEM else "assistant"
            return Message(role=role, content=message.words, masked=role == "system")
        if not message.images and not message.words.strip():
            raise bad_request(f"'{field}' is empty", field)
        pieces: list[str | list[PreparedImage]] = []
        for index, part in enumerate(message.content):
            if part.type == "image_url":
                assert part.image_url is not None, "the body was checked"
                view = views.get(f"{field}.{index}", DEFAULT_VIEW)
                data = read_data_url(part.image_url.url, f"{field}.{index}.image_url.url")
                pieces.append(self._pictures(data, view, f"{field}.{index}", request_id, room))
            elif part.text:
                pieces.append(part.text)
        return Message(role="user", content=_placed(pieces), masked=True)

    def _pictures(self, data: bytes, view: View, field: str, request_id: str, room: _Room) -> list[PreparedImage]:
        """Decode one image, or the frames of a volume that are wanted."""
        if view.fit is not None and self._generator.preprocess.tiles:
            name = f"{field}.view.fit"
            raise bad_request(f"'{name}': this model sees all of an image, cut into tiles; leave it out", name)
        key = hashlib.sha256(data).hexdigest()
        with refused_images(self._images, f"{field}.image_url.url", request_id):
            views = self._images.expand_bytes(data, view)
        # [Contract] counted before anything is decoded: a small body may hold a volume of a thousand slices.
        room.take(len(views) - 1)
        pictures = decode_pictures(self._images, data, view, f"{field}.image_url.url", request_id)
        return [
            self._generator.prepare(picture, key if one == DEFAULT_VIEW else f"{key} {one}", one.fit)
            for one, picture in zip(views, pictures, strict=True)
        ]


class _Room:
    """The images that a request may still have; raises 400 where they are too many."""

    def __init__(self, num_images: int, most: int) -> None:
        self._num_images, self._most = 0, most
        self.take(num_images)

    def take(self, num_images: int) -> None:
        self._num_images += num_images
        if self._num_images > self._most:
            raise bad_request(
                f"there are {self._num_images} images; at most {self._most} are taken", "messages", "too_many"
            )


def _view(given: ViewFields, field: str) -> View:
    try:
        return read_view(given.model_dump())
    except ViewKeyError as error:
        raise bad_request(f"'{field}.{error.key}' {error.rule}", f"{field}.{error.key}") from None


def decode_picture(images: ImageReader, data: bytes, field: str, request_id: str) -> Image.Image:
    """Decode an image that came with a request, in the default view; see :func:`decode_pictures`."""
    return next(decode_pictures(images, data, DEFAULT_VIEW, field, request_id))


def decode_pictures(images: ImageReader, data: bytes, view: View, field: str, request_id: str) -> Iterator[Image.Image]:
    """Decode an image that came with a request, or several frames of it, one after the other.

    Args:
        images: has the limits, and no roots.
        data: the content of a file.
        view: how it is looked at.
        field: field of the request, for the error message.
        request_id: id of the request, for the log.

    Yields:
        The upright 8-bit RGB picture.

    Raises:
        ApiError: 400; whatever was wrong with the image, its words are the same.
    """
    pictures = images.open_bytes_frames(data, view)
    while True:
        with refused_images(images, field, request_id):
            picture = next(pictures, None)
            if picture is not None and max(picture.size) > MAX_ASPECT * min(picture.size):
                raise UserError(f"image of {picture.width} x {picture.height} is a strip")
        if picture is None:
            return
        yield picture


@contextlib.contextmanager
def refused_images(images: ImageReader, field: str, request_id: str) -> abc.Generator[None]:
    """Refuse an image for whatever is wrong with it while the block lasts.

    Args:
        images: has the limits.
        field: field of the request, for the error message.
        request_id: id of the request, for the log.

    Raises:
        ApiError: 400.
    """
    try:
        yield
    except (MemoryError, ApiError):
        raise
    except ViewError as error:
        reason = str(error).removeprefix("image of this request ")
        raise bad_request(f"the image of '{field}' {reason}", field, "invalid_image") from None
    except Exception as error:
        # No list covers what damaged files make decoders raise; what they say is for the log only.
        logger.info("%s: image refused: %.300r", request_id, error)
        raise bad_request(
            f"'{field}' cannot be read: it must be a whole image of the formats {', '.join(FORMATS)}, DICOM or"
            f" NIfTI, of at most {images.max_pixels:,} pixels, no side longer than {MAX_ASPECT} times the other",
            field,
            "invalid_image",
        ) from None


def too_long(context: int, num_tokens: int | None = None) -> ApiError:
    """Return a conversation that leaves no room for an answer.

    Args:
        context: most tokens of a conversation with its answer.
        num_tokens: number of tokens of the conversation, if they were counted.
    """
    counted = "" if num_tokens is None else f", and it has {num_tokens} without"
    return bad_request(
        f"the conversation is too long: with its answer it may have {context} tokens{counted}",
        "messages",
        "context_length_exceeded",
    )


def _num_placeholders(message: ChatMessage) -> int:
    return sum(find_placeholders(part.text).count for part in message.content if part.text)


def _turns_to_answer(body: ChatBody) -> list[tuple[int, ChatMessage]]:
    """Return the turns of the prompt with their indices; a last one of the assistant is not among them, it begins the
    answer.

    Of two turns of the assistant in a row one may be empty, and is left out.
    """
    turns: list[tuple[int, ChatMessage]] = []
    for index, message in body.turns:
        if message.role in SYSTEM and turns:
            raise bad_request("a system message must be the first message, and the only one", "messages")
        if turns and turns[-1][1].role == message.role == "assistant":
            if not message.words.strip():
                continue
            if turns[-1][1].words.strip():
                raise bad_request("two assistant messages in a row: join them", f"messages.{index}")
            turns.pop()
        turns.append((index, message))
    if turns and turns[-1][1].role == "assistant":
        turns.pop()
    if not turns:
        raise bad_request("there is nothing to answer: add a user message", "messages")
    return turns


def _placed(pieces: list[str | list[PreparedImage]]) -> list[dict[str, Any]]:
    """Put the last images where the words name them; those before them stay where they are."""
    placed = {index: find_placeholders(piece) for index, piece in enumerate(pieces) if isinstance(piece, str)}
    images = [piece for piece in pieces if not isinstance(piece, str)]
    num_free = len(images) - sum(words.count for words in placed.values())
    free, named = images[:num_free], iter(images[num_free:])
    parts: list[dict[str, Any]] = []
    for index, piece in enumerate(pieces):
        if index not in placed:
            if free:
                _append_images(parts, free.pop(0))
        elif placed[index].count:
            _append_placed(parts, placed[index], named)
        else:
            _append(parts, "text", piece)
    return parts


def _append_placed(parts: list[dict[str, Any]], placed: Placed, named: Iterator[list[PreparedImage]]) -> None:
    for _ in range(placed.before):
        _append_images(parts, next(named))
    first, *others = placed.pieces or [""]
    if first:
        _append(parts, "text", first)
    for piece in others:
        if piece is None:
            parts += [{"type": "image", "content": image} for image in next(named)]
        else:
            parts.append({"type": "text", "content": piece})
    for _ in range(placed.after):
        _append_images(parts, next(named))


def _append_images(parts: list[dict[str, Any]], images: list[PreparedImage]) -> None:
    for image in images:
        _append(parts, "image", image)


def _append(parts: list[dict[str, Any]], kind: str, content: Any) -> None:
    """Add a part; a line break parts words from images, as in ``<image>\\n`` before the question."""
    if parts:
        before = parts[-1]
        between = "" if before["type"] == "image" else before["content"][-1:]
        if kind == "text" and between != "\n" and not content.startswith("\n"):
            content = f"\n{content}"
        elif kind == "image" and between not in ("", "\n"):
            before["content"] += "\n"
    parts.append({"type": kind, "content": content})
