"""Messages whose images may mean several frames -> messages with one image part for each picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from torchtune.data import Message

from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import DEFAULT_VIEW
from medcap.errors import UserError


def expand_images(messages: Sequence[Message], expand: Callable[[ImageRef], Sequence[ImageRef]]) -> list[Message]:
    """Put an image part for each picture that a reference means, in order; one placeholder stood for all of them.

    Args:
        messages: the turns; an image part may also hold something else than a reference, which stays.
        expand: returns the references of the single pictures, as ``ImageReader.expand`` does.

    Returns:
        The turns; a new one in place of one that is changed.

    Raises:
        UserError: if there is no such frame, or a file cannot be read.
    """
    changed = list(messages)
    for number, message in enumerate(messages):
        references = [part["content"] for part in message.content if isinstance(part["content"], ImageRef)]
        if all(image.view == DEFAULT_VIEW for image in references):
            continue
        parts: list[dict[str, Any]] = []
        for part in message.content:
            image = part["content"]
            pictures = expand(image) if isinstance(image, ImageRef) else [image]
            parts += [part | {"content": picture} for picture in pictures]
        changed[number] = copy(message)
        changed[number].content = parts
    return changed


def expand_named_images(messages: Sequence[Message], reader: ImageReader) -> list[Message]:
    """Expand references whose paths are still as a user gave them.

    Args:
        messages: the turns.
        reader: resolves the paths, and counts the frames.

    Returns:
        As :func:`expand_images`. A reference that cannot be expanded stays, so that opening it says why: in a list of
        requests, one damaged file is the failure of one.
    """

    def expand(image: ImageRef) -> list[ImageRef]:
        if not image.view.has_several_frames:
            return [image]
        try:
            return reader.expand(replace(image, path=str(reader.resolve(image.path))))
        except UserError:
            return [image]

    return expand_images(messages, expand)
