"""How the boxes of a run are written: in which notation, and on the original image or on what the tower is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from medcap.data.boxes.box import Box, Edges, Size
from medcap.data.boxes.frame import Frame
from medcap.data.boxes.notations import MAX_BOXES, NOTATIONS, BoxText, find_box_texts, write_box
from medcap.errors import UserError

BOX_WORD = "<BOX>"  # stands for a box that is not written out
NOT_SEEN = "not visible"  # is written in the place of a box of what the image does not show
DEFAULT_NOTATION = "thousandths"
ANSWERS = ("text", "head")
FRAMES = ("original", "shown")
# Of dataset, and of each of its sources.
BOX_KEYS = {"box_format": NOTATIONS, "box_write": NOTATIONS, "box_answer": ANSWERS, "box_frame": FRAMES}

FrameOf = Callable[[Size, str | None], Frame]  # size of an image and the fit of its view -> its frame


@dataclass(frozen=True)
class BoxStyle:
    """How boxes are written in the texts of a run, and read from them.

    All that writes or reads a box for a model goes through it: rows of training, questions of the chat, the page and
    tasks, and the answers to them.

    Attributes:
        read: notation of the texts of data files; None tells them apart by their marks and numbers.
        written: notation that they are rewritten into; None leaves each as it is.
        by_head: whether the assistant's boxes are the word ``<BOX>`` and its targets, rather than text.
        shown: whether coordinates are those of the square that the tower is shown, rather than of the original image.
        frame: the tower's ``Preprocess.frame``: (size of an image, fit of its view or None) -> its frame. None where
            the tower is not known.

    Example:
        >>> style = BoxStyle(written="coloninst")
        >>> style.write(Box((0.5, 0.5, 1.0, 0.75)), (200, 100))
        '{<100><50><200><75>}'
        >>> style.find("{<100><50><200><75>}", (200, 100))
        [Box(edges=(0.5, 0.5, 1.0, 0.75), label='', image=0)]
    """

    read: str | None = None
    written: str | None = None
    by_head: bool = False
    shown: bool = False
    frame: FrameOf | None = None

    @property
    def is_plain(self) -> bool:
        """Whether no key says anything of boxes: then texts stay as they are."""
        return self.read is None and self.written is None and not self.by_head and not self.shown

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What tells the texts that it makes from those of another; nothing for a plain one."""
        if self.is_plain:
            return {}
        known: list[Any] = [self.read, self.written, self.by_head, self.shown]
        # The frame says which boxes can be seen, and where.
        sizes = [] if self.frame is None else [(200, 100), (100, 200)]
        seen = [asdict(self.frame(size, None)) for size in sizes if self.frame is not None]
        return {"boxes": known + seen}

    @property
    def notation(self) -> str:
        """The notation that a run's boxes are written in where no text has one already."""
        return self.written or self.read or DEFAULT_NOTATION

    def write(self, box: Box, size: Size, fit: str | None = None, notation: str | None = None) -> str:
        """Write a box as the run's texts have it.

        Args:
            box: in shares of the original image.
            size: width and height of the original image in pixels.
            fit: as the image's view says it.
            notation: another one than the run's.

        Returns:
            The text; empty if nothing of the box is in what the tower is shown and ``shown`` is true. ``coloninst``
            then counts the pixels of the tower's square.
        """
        notation = notation or self.notation
        if not self.shown:
            return write_box(box, notation, size)
        frame = self._frame(size, fit)
        edges = frame.to_shown(box.edges)
        # The decimals of shares are those that the original image needs, which may be larger than the square.
        unit = _size_in(frame) if notation == "coloninst" else size
        return "" if edges is None else write_box(replace(box, edges=edges), notation, unit)

    def find(self, text: str, size: Size, fit: str | None = None) -> list[Box]:
        """Find the boxes in a text of the run, such as an answer; the inverse of :meth:`write`.

        Args:
            text: any. Boxes in another notation than the run's are left out; a run without one takes all.
            size: width and height of the original image in pixels.
            fit: as the image's view says it.

        Returns:
            The boxes in their order, in shares of the original image and cut at its edges; those of which nothing is
            on the image are left out.
        """
        found = ((self.edges(box, size, fit), box.label) for box in find_box_texts(text, self.written or self.read))
        return [Box(edges, label) for edges, label in found if edges is not None][:MAX_BOXES]

    def rewritten(self, text: str, notation: str, size: Size, fit: str | None = None) -> str:
        """Return a text of the run with its boxes on the original image and in another notation.

        Args:
            text: any. What is no box in the run's notation, or lies outside the image, stays as it is.
            notation: one of ``NOTATIONS``.
            size: width and height of the original image in pixels.
            fit: as the image's view says it.
        """
        pieces, end = [], 0
        for found in find_box_texts(text, self.notation):
            edges = self.edges(found, size, fit)
            if edges is not None:
                pieces += [text[end : found.start], write_box(Box(edges, found.label), notation, size)]
                end = found.end
        return "".join([*pieces, text[end:]])

    def edges(self, found: BoxText, size: Size, fit: str | None = None) -> Edges | None:
        """Return a box of the run's texts in shares of the original image; None if nothing of it is there."""
        if not self.shown:
            return found.edges_within(size)
        frame = self._frame(size, fit)
        edges = found.edges_within(_size_in(frame))
        return None if edges is None else frame.to_original(edges)

    def _frame(self, size: Size, fit: str | None) -> Frame:
        assert self.frame is not None, "box_style refuses it"
        return self.frame(size, fit)


PLAIN = BoxStyle()


def box_style(dataset: Mapping[str, Any], frame: FrameOf | None = None) -> BoxStyle:
    """Return how a run's boxes are written, of the ``dataset`` of its configuration.

    Args:
        dataset: may hold ``box_format``, ``box_write``, ``box_answer`` and ``box_frame``, and ``sources``: a key that
            all of them give the same value counts where ``dataset`` does not say it.
        frame: the tower's ``Preprocess.frame``.

    Raises:
        UserError: if a value is impossible, or coordinates are those of what a tower is shown that is not known.
    """
    sources = dataset.get("sources") or []
    known = {key: dataset.get(key) for key in BOX_KEYS}
    for key, choices in BOX_KEYS.items():
        said = {source.get(key) for source in sources}
        if known[key] is None and len(said) == 1:
            known[key] = said.pop()
        if known[key] is not None and known[key] not in choices:
            raise UserError(f"{key}={known[key]} must be one of {', '.join(choices)}")
    if known["box_frame"] == "shown" and frame is None:
        raise UserError(
            "box_frame=shown: the tower is not known here, whose preprocessing decides; name it by a --config"
        )
    return BoxStyle(
        known["box_format"], known["box_write"], known["box_answer"] == "head", known["box_frame"] == "shown", frame
    )


def _size_in(frame: Frame) -> Size:
    side = frame.side or max(frame.size)
    return side, side
