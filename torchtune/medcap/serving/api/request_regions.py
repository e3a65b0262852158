"""The regions of a request: read from ``regions`` of its messages, never from a file of this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torchtune.data import Message

from medcap.data.images.reader import ImageReader
from medcap.data.regions.draw import inside_of
from medcap.data.regions.region import MaskFile, PolygonShape, Region, RunLength, region_from_json
from medcap.data.regions.run_length import encode
from medcap.data.row_regions import REGION_TEXT, fill_regions, region_tags
from medcap.errors import UserError
from medcap.plurals import counted
from medcap.serving.api.api_error import bad_request, one_line
from medcap.serving.api.chat_body import ChatBody, ChatMessage
from medcap.serving.api.data_url import read_data_url

MAX_POINTS = 1000  # of a polygon: each costs a pass over the rows of its image
_LONGEST = 300

logger = logging.getLogger(__name__)


class RequestRegions:
    """Reads the regions of one request.

    Args:
        reads: whether the model reads regions.
        most: most regions of a request.
        images: decodes masks that came with the request; it has no roots.
        request_id: id of the request, for the log.
    """

    def __init__(self, reads: bool, most: int, images: ImageReader, request_id: str) -> None:
        self._reads, self._most, self._images, self._request_id = reads, most, images, request_id

    def check(self, body: ChatBody) -> None:
        """See that each message has a region for every ``<region></region>`` of its words, before anything is decoded.

        Raises:
            ApiError: 400.
        """
        for index, message in enumerate(body.messages):
            self._check_message(message, f"messages.{index}")
        if (count := len(list(fields_of_regions(body)))) > self._most:
            raise bad_request(f"there are {count} regions; at most {self._most} are taken", "messages", "too_many")

    def _check_message(self, message: ChatMessage, field: str) -> None:
        given = message.regions or []
        if message.role != "user":
            if given:
                raise bad_request("only the user's messages may hold regions", f"{field}.regions")
            return
        if not self._reads:
            # <region></region> is only words to such a model.
            if given:
                raise bad_request(
                    f"'{field}.regions': this model reads no regions, as it has no region_encoder: leave them out",
                    f"{field}.regions",
                )
            return
        tags = [tag for part in message.content if part.text for tag in region_tags(part.text)]
        if any(tags):
            raise bad_request(
                f"'{field}.content' names a file between <region> and </region>: this server opens no file; write"
                f" {REGION_TEXT}, and send the mask under '{field}.regions'",
                f"{field}.content",
            )
        if len(tags) != len(given):
            raise bad_request(
                f"'{field}.content' has {len(tags)} {REGION_TEXT} and '{field}.regions'"
                f" {counted(len(given), 'region')}: give each its region",
                f"{field}.regions",
            )

    def place(self, turns: Sequence[tuple[str, ChatMessage, Message]]) -> list[Message]:
        """Put the regions of a checked request into its turns.

        Args:
            turns: field and message of each turn, and the turn, its images decoded.

        Returns:
            The turns; a region is a part as in a training row.

        Raises:
            ApiError: 400, if one is no region, or lies on an image that is not there.
        """
        num_images = sum(part["type"] == "image" for _, _, turn in turns for part in turn.content)
        placed = []
        for field, message, turn in turns:
            regions = [
                self._region(value, f"{field}.regions.{number}", num_images)
                for number, value in enumerate(message.regions or [])
            ]
            if regions:
                turn = Message(role="user", content=fill_regions(turn.content, regions), masked=True)
            placed.append(turn)
        return placed

    def _region(self, value: Any, field: str, num_images: int) -> Region:
        try:
            region = region_from_json(value, field)
        except UserError as error:
            raise bad_request(one_line(str(error), _LONGEST), field, "invalid_region") from None
        if region.image >= num_images:
            raise bad_request(
                f"'{field}' lies on image {region.image}, and the request has {num_images}, numbered from 0",
                field,
                "invalid_region",
            )
        if isinstance(region.shape, PolygonShape) and len(region.shape.points) > MAX_POINTS:
            raise bad_request(
                f"'{field}' is a polygon of {len(region.shape.points)} points; at most {MAX_POINTS} are taken: send a"
                " mask",
                field,
                "invalid_region",
            )
        if isinstance(region.shape, MaskFile):  # the name of a file, if it is no data URL
            return replace(region, shape=self._decoded(region.shape, field))
        return region

    def _decoded(self, mask: MaskFile, field: str) -> RunLength:
        """Read a mask that is the data URL of a picture."""
        data = read_data_url(mask.path, f"{field}.mask")
        try:
            stored = self._images.stored_values_of_bytes(data)
            found = encode(inside_of(stored, MaskFile("of this request", mask.value)))
        except MemoryError:
            raise
        except Exception as error:
            # As for images: no list covers what damaged files make decoders raise.
            logger.info("%s: mask refused: %.300r", self._request_id, error)
            raise bad_request(
                f"'{field}.mask' cannot be read: it must be a whole picture (PNG, TIFF, BMP, GIF, JPEG) of one value a"
                f" pixel, of at most {self._images.max_pixels:,} pixels",
                f"{field}.mask",
                "invalid_region",
            ) from None
        height, width = found["size"]
        return RunLength((height, width), found["counts"])


def fields_of_regions(body: ChatBody) -> Iterator[str]:
    """Yield the field of each region of a request, in their order."""
    for index, message in enumerate(body.messages):
        for number in range(len(message.regions or [])):
            yield f"messages.{index}.regions.{number}"
