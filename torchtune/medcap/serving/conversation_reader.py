"""A checked request -> the messages that the model was trained on, its images decoded."""

from __future__ import annotations

import binascii
import hashlib
import logging
import re
from typing import Any

from PIL import Image
from torchtune.data import Message

from medcap.data.images import FORMATS, ImageReader
from medcap.data.tokenization import check_text
from medcap.errors import UserError, WordsError
from medcap.generation.generator import Generator
from medcap.generation.request import PreparedImage
from medcap.models.towers.base import MAX_ASPECT
from medcap.serving.api_error import ApiError, bad_request
from medcap.serving.chat_body import ChatBody, ChatMessage, Part
from medcap.serving.limits import Limits

# Parameters such as ``;charset=utf-8`` may stand between type and ``;base64``.
_DATA_URL = re.compile(r"data:[\w.+-]{0,60}/?[\w.+-]{0,60}(?:;[\w.+-]{1,40}=[\w.+-]{1,40}){0,4};base64,", re.ASCII)

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
            request_id: for the log.

        Returns:
            The turns; images are :class:`PreparedImage`.

        Raises:
            ApiError: 400, if a turn is out of place, the text too long, or an image cannot be taken.
        """
        self._check_turns(body.messages)
        num_images = num_characters = 0
        for turn, message in enumerate(body.messages):
            for place, part in enumerate(message.content):
                self._check_part(part, message.role, f"messages.{turn}.content.{place}")
                num_images += part.type == "image_url"
                num_characters += len(part.text or "")
        if num_images > self._limits.max_images:
            raise bad_request(
                f"there are {num_images} images; at most {self._limits.max_images} are taken", "messages", "too_many"
            )
        if num_characters > self._limits.max_characters:
            raise too_long(self._limits)
        return [self._message(turn, message, request_id) for turn, message in enumerate(body.messages)]

    def _check_turns(self, messages: list[ChatMessage]) -> None:
        roles = [message.role for message in messages]
        if roles[-1] != "user":
            raise bad_request("the last message must be the user's", "messages")
        if any(role in ("system", "developer") for role in roles[1:]):
            raise bad_request("a system message must be the first message, and the only one", "messages")
        for place in range(1, len(roles)):
            if roles[place - 1] == roles[place] == "assistant":
                raise bad_request("two assistant messages in a row: join them", f"messages.{place}")

    def _check_part(self, part: Part, role: str, field: str) -> None:
        wanted, other = ("text", "image_url") if part.type == "text" else ("image_url", "text")
        if getattr(part, wanted) is None or getattr(part, other) is not None:
            raise bad_request(f"'{field}' must have '{wanted}' and not '{other}'", field)
        if part.type == "image_url":
            if role != "user":
                raise bad_request("only the user's messages may hold images", field)
            return
        try:
            check_text(part.text)
        except WordsError:
            raise bad_request(f"'{field}' holds half of a character, which no text may hold", field) from None
        except UserError:
            raise bad_request(
                f"'{field}' holds a character that stands for an image; send images as 'image_url' parts", field
            ) from None

    def _message(self, turn: int, message: ChatMessage, request_id: str) -> Message:
        field = f"messages.{turn}.content"
        parts: list[dict[str, Any]] = []
        for place, part in enumerate(message.content):
            if part.type == "image_url":
                image = self._image(part.image_url.url, f"{field}.{place}.image_url.url", request_id)
                _append(parts, "image", image)
            elif part.text:
                _append(parts, "text", part.text)
        if not any(part["type"] == "image" or part["content"].strip() for part in parts):
            raise bad_request(f"'{field}' is empty", field)
        role = "system" if message.role == "developer" else message.role
        return Message(role=role, content=parts, masked=role != "assistant")

    def _image(self, url: str, field: str, request_id: str) -> PreparedImage:
        found = _DATA_URL.match(url)
        if found is None:
            raise bad_request(
                f"'{field}' must be a data URL with base64 (data:image/png;base64,...): this server fetches no address"
                " and opens no file",
                field,
                "unsupported_image_url",
            )
        try:
            data = binascii.a2b_base64(url[found.end() :], strict_mode=True)
        except ValueError:
            raise bad_request(f"'{field}' holds no valid base64", field, "invalid_base64") from None
        picture = decode_picture(self._images, data, field, request_id)
        return self._generator.prepare(picture, hashlib.sha256(data).hexdigest())


def decode_picture(images: ImageReader, data: bytes, field: str, request_id: str) -> Image.Image:
    """Decode an image that came with a request.

    Args:
        images: has the limits, and no roots.
        data: the content of a file.
        field: of the request, for the refusal.
        request_id: for the log.

    Returns:
        The upright 8-bit RGB picture.

    Raises:
        ApiError: 400; whatever was wrong, its words are the same.
    """
    try:
        picture = images.open_bytes(data)
        if max(picture.size) > MAX_ASPECT * min(picture.size):
            raise UserError(f"image of {picture.width} x {picture.height} is a strip")
        return picture
    except MemoryError:
        raise
    except Exception as error:
        # No list covers what damaged files make decoders raise; what they say is for the log only.
        logger.info("%s: image refused: %.300r", request_id, error)
        raise bad_request(
            f"'{field}' cannot be read: it must be a whole image of the formats {', '.join(FORMATS)}, DICOM or"
            f" NIfTI, of at most {images.max_pixels:,} pixels, no side longer than {MAX_ASPECT} times the other",
            field,
            "invalid_image",
        ) from None


def too_long(limits: Limits) -> ApiError:
    """A conversation that leaves no room for an answer."""
    return bad_request(
        f"the conversation is too long: with its answer it may have {limits.max_seq_len} tokens",
        "messages",
        "context_length_exceeded",
    )


def _append(parts: list[dict[str, Any]], kind: str, content: Any) -> None:
    """A line break stands between words and what comes before or after them, as in ``<image>\\n`` and the question."""
    if parts:
        before = parts[-1]
        between = "" if before["type"] == "image" else before["content"][-1:]
        if kind == "text" and between != "\n" and not content.startswith("\n"):
            content = f"\n{content}"
        elif kind == "image" and between not in ("", "\n"):
            before["content"] += "\n"
    parts.append({"type": kind, "content": content})
