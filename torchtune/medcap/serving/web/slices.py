"""The slices of a volume, and greys through another window, for the page's slider."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image

from medcap.data.images.frame_choice import choose_frames
from medcap.data.images.reader import ImageReader
from medcap.data.images.view_keys import read_view, word_value
from medcap.data.images.views import View
from medcap.errors import ViewKeyError
from medcap.serving.api.api_error import bad_request
from medcap.serving.api.conversation_reader import decode_pictures, refused_images

MOST_SLICES = 64  # of one volume that are sent to a page
_LONGEST_SIDE = 384
_KEYS = ("axis", "window")


def slices(images: ImageReader, data: bytes, given: Mapping[str, str], request_id: str) -> dict[str, Any]:
    """Show slices of a file that came with a request.

    Args:
        images: has the limits, and no roots.
        data: the content of a file.
        given: ``axis`` and ``window`` in the form in which the chat takes them; both may be absent.
        request_id: id of the request, for the log.

    Returns:
        ``frames``: how many there are; ``numbers`` of those that are sent, at most ``MOST_SLICES``, evenly spread;
        ``pictures``: ``data:`` addresses of them; ``width`` and ``height`` of a slice before it is made smaller.

    Raises:
        ApiError: 400, for an impossible key or image.
    """
    view = _view(given)
    with refused_images(images, "image", request_id):
        count = len(images.expand_bytes(data, replace(view, frames="all")))
    numbers = tuple(choose_frames(f"{MOST_SLICES} even", count))
    if count > 1:
        view = replace(view, frames=numbers)
    pictures, size = [], (0, 0)
    for picture in decode_pictures(images, data, view, "image", request_id):
        size = picture.size
        pictures.append(_address(picture))
    return {"frames": count, "numbers": numbers, "pictures": pictures, "width": size[0], "height": size[1]}


def _view(given: Mapping[str, str]) -> View:
    try:
        return read_view({key: word_value(key, given[key]) for key in _KEYS if given.get(key)})
    except ViewKeyError as error:
        raise bad_request(f"'{error.key}' {error.rule}", error.key) from None


def _address(picture: Image.Image) -> str:
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
