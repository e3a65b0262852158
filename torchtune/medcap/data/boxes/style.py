"""How the boxes of a run are written: in which notation, and on the original image or on what the tower is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from medcap.data.boxes.box import Box, Edges, Size
from medcap.data.boxes.frame import Frame
from medcap.data.boxes.notations import MAX_BOXES, BoxText, find_box_texts, write_box

BOX_WORD = "<BOX>"  # stands for a box that is not written out
DEFAULT_NOTATION = "thousandths"
ANSWERS = ("text", "head")
FRAMES = ("original", "shown")
BOX_KEYS = ("box_format", "box_write", "box_answer", "box_frame")  # of dataset, and of each of its sources

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
        return "" if edges is None else write_box(replace(box, edges=edges), notation, _size_in(frame))

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

    def edges(self, found: BoxText, size: Size, fit: str | None = None) -> Edges | None:
        """Return a box of the run's texts in shares of the original image; None if nothing of it is there."""
        if not self.shown:
            return found.edges_within(size)
        frame = self._frame(size, fit)
        edges = found.edges_within(_size_in(frame))
        return None if edges is None else frame.to_original(edges)

    def _frame(self, size: Size, fit: str | None) -> Frame:
        assert self.frame is not None, "boxes of what the tower is shown need the tower"
        return self.frame(size, fit)


def box_style(dataset: Mapping[str, Any], frame: FrameOf | None = None) -> BoxStyle:
    """Return how a run's boxes are written, of the ``dataset`` of its configuration.

    Args:
        dataset: may hold ``box_format``, ``box_write``, ``box_answer`` and ``box_frame``, and ``sources``: a key that
            all of them give the same value counts where ``dataset`` does not say it.
        frame: the tower's ``Preprocess.frame``.
    """
    sources = dataset.get("sources") or []
    known = {key: dataset.get(key) for key in BOX_KEYS}
    for key in BOX_KEYS:
        said = {source.get(key) for source in sources}
        if known[key] is None and len(said) == 1:
            known[key] = said.pop()
    return BoxStyle(
        known["box_format"], known["box_write"], known["box_answer"] == "head", known["box_frame"] == "shown", frame
    )


def _size_in(frame: Frame) -> Size:
    side = frame.side or max(frame.size)
    return side, side
