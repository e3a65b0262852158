"""A conversation that grows turn by turn, with images at any of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torchtune.data import Message

from medcap.data.boxes.style import NOT_SEEN
from medcap.data.images.reference import ImageRef
from medcap.data.images.view_keys import view_keys
from medcap.data.regions.region import Region, regions_as_json
from medcap.data.row_masks import MASK_WORD
from medcap.data.row_regions import fill_regions
from medcap.errors import UserError
from medcap.generation.request import Request
from medcap.generation.typed_placeholders import fitting, place_images, row_text, without_placeholders


@dataclass
class Exchange:
    """What the user said, and the answer to it.

    Attributes:
        text: the user's words; none asks for a caption. A placeholder in them marks the place of an image.
        images: images; those without a placeholder come before the words.
        answer: None until there is one.
        masks: those that the answer's words ``<SEG>`` stand for, with the number of their image in the conversation;
            None for each object that the answer tells as not seen.
        regions: those that ``<region></region>`` in the user's words stands for, with the number of their picture among
            all that were shown; a slice of a volume counts as a picture.
        before: number of pictures that were shown before those that the turn is about.
    """

    text: str
    images: list[ImageRef] = field(default_factory=list)
    answer: str | None = None
    masks: tuple[Region | None, ...] = ()
    regions: tuple[Region, ...] = ()
    before: int = 0


@dataclass
class Conversation:
    """All exchanges so far.

    Attributes:
        system: system text before all turns; none by default, as in training.
        exchanges: the last one may lack its answer.
    """

    system: str = ""
    exchanges: list[Exchange] = field(default_factory=list)

    def ask(
        self, text: str, images: Sequence[ImageRef] = (), regions: tuple[Region, ...] = (), before: int = 0
    ) -> None:
        """Add a user's turn.

        Args:
            text: the words.
            images: images of this turn.
            regions: regions that its words name, see :class:`Exchange`.
            before: number of pictures before those that it is about.
        """
        self.exchanges.append(Exchange(text, list(images), regions=regions, before=before))

    def answer(self, text: str, masks: tuple[Region | None, ...] = ()) -> None:
        """Add the answer to the last turn, or replace it.

        Args:
            text: the words.
            masks: the masks of its words ``<SEG>``, see :class:`Exchange`.
        """
        self.exchanges[-1].answer, self.exchanges[-1].masks = text, masks

    def request(self, alone: bool = False) -> Request:
        """Ask for the answer to the last turn, whether it has one already or not.

        Args:
            alone: whether to leave out the turns before it, for models that were trained on single questions; a turn
                without images is then about those that were shown last.

        Returns:
            The request; its id is always the same, so a seed gives the same answer again.

        Raises:
            UserError: if words name an image that was not shown; or, alone, if a region lies on an earlier one.
        """
        messages = [Message(role="system", content=self.system, masked=True)] if self.system else []
        last = self.exchanges[-1]
        if alone:
            shown = [exchange.images for exchange in self.exchanges if exchange.images]
            turns = [Exchange(last.text, shown[-1] if shown else [], regions=_alone(last))]
        else:
            turns = self._turns(last)
        for turn in turns:
            content = place_images(turn.text, turn.images)
            content = fill_regions(content, turn.regions) if turn.regions else content
            messages.append(Message(role="user", content=content, masked=True))
            if turn.answer is not None:
                messages.append(Message(role="assistant", content=turn.answer, masked=False))
        return Request(messages, id="conversation")

    def to_row(self) -> dict[str, Any]:
        """As a row that can be trained on (medcap 2024's and LLaVA's layout).

        Returns:
            ``image`` and ``conversations``; a turn whose answer has no words is left out. ``masks`` where there is one
            for each ``<SEG>`` of its answers, null for what was not seen, and the ``regions`` of its questions.
        """
        rows = [{"from": "system", "value": self.system}] if self.system else []
        turns = self._turns()
        # A trained answer says <SEG> of what is not there as well: that it is not seen was the decoder's word.
        answers = [_with_mask_words(turn.answer or "", turn.masks) for turn in turns]
        images = [_row_entry(image) for turn in turns for image in turn.images]
        for turn, answer in zip(turns, answers, strict=True):
            rows.append({"from": "human", "value": row_text(turn.text, len(turn.images))})
            rows.append({"from": "gpt", "value": answer})
        row: dict[str, Any] = {"image": images, "conversations": rows} if images else {"conversations": rows}
        if regions := [region for turn in turns for region in turn.regions]:
            row["regions"] = regions_as_json(regions)
        masks = [mask for turn in turns for mask in turn.masks]
        whole = all(answer.count(MASK_WORD) == len(turn.masks) for turn, answer in zip(turns, answers, strict=True))
        return row | {"masks": regions_as_json(masks)} if masks and whole else row

    def to_markdown(self) -> str:
        """For people to read."""
        lines = [f"*{self.system}*", ""] if self.system else []
        for exchange in self.exchanges:
            lines += [f"![{image}](<{ImageRef.of(image).path}>)" for image in exchange.images]
            lines += [f"**You:** {exchange.text or '(describe)'}", ""]
            lines += [exchange.answer or "", ""]
        return "\n".join(lines)

    def _turns(self, last: Exchange | None = None) -> list[Exchange]:
        """Return the turns that the model is shown, which are those that a row keeps.

        A turn whose answer has no words (it was stopped before one came) is left out.
        [Contract] its images are not: they go with the next turn, otherwise the model would answer that one without
        them.

        Args:
            last: the turn to answer; it is there whatever its answer.
        """
        turns: list[Exchange] = []
        waiting: list[ImageRef] = []
        for exchange in self.exchanges:
            images = [*waiting, *exchange.images]
            words = None if exchange is last else without_placeholders(exchange.answer or "")
            if exchange is last or words:
                text = exchange.text if exchange is last else fitting(exchange.text, len(images))
                turns.append(Exchange(text, images, words, exchange.masks, exchange.regions))
                waiting = []
            else:
                waiting = images
        return turns


def _with_mask_words(answer: str, masks: Sequence[Region | None]) -> str:
    """Write ``<SEG>`` where an answer tells that an object is not seen, if its words fit the masks one by one."""
    said = re.findall(f"{re.escape(MASK_WORD)}|{re.escape(NOT_SEEN)}", answer)
    if [word == NOT_SEEN for word in said] != [mask is None for mask in masks]:
        return answer
    return answer.replace(NOT_SEEN, MASK_WORD)


def _alone(exchange: Exchange) -> tuple[Region, ...]:
    """Return the regions of a turn, numbered among the pictures that it is about."""
    regions = tuple(replace(region, image=region.image - exchange.before) for region in exchange.regions)
    if any(region.image < 0 for region in regions):
        raise UserError("a region lies on an image that was shown before the last ones, which a turn alone is about")
    return regions


def _row_entry(image: ImageRef) -> str | dict[str, Any]:
    """Return an image as a row holds it; of a volume, the row's one placeholder stands for all its frames."""
    keys = view_keys(ImageRef.of(image).view)
    return {"image": image.path, **keys} if keys else str(image)
