"""Where the parts of an image lie in the square that a tower is shown of it."""

from __future__ import annotations

from dataclasses import dataclass

from medcap.data.boxes.box import Edges, Size

# Beyond this many times its short side, nothing of an image reaches the pixels of its centre crop.
MAX_ASPECT = 50
# A longer picture is made smaller before it is laid in a square of its long side.
MAX_PADDED = 8192
_NOTHING = 1e-9  # a share of an image; edges that should be equal differ by rounding errors


@dataclass(frozen=True)
class Frame:
    """The way from coordinates on an image to coordinates on the square that a tower is shown, and back.

    It follows the tower's preprocessing (``ImageTransform`` in ``medcap.models.preprocess``) to the pixel: the resized
    sides are rounded as there, and so are the margins.

    Attributes:
        size: width and height of the original image in pixels.
        fit: ``crop`` resizes the short side and cuts out the centre, ``pad`` and ``pad_mean`` lay the image in the
            middle of a square, ``pad_corner`` resizes the long side and lays the image in the square's upper left
            corner, ``squash`` resizes both sides.
        side: side of the square in pixels; None leaves out what rounding to its pixels does.

    Example:
        >>> Frame((200, 100), "pad").to_shown((0.0, 0.0, 0.5, 1.0))
        (0.0, 0.25, 0.5, 0.75)
    """

    size: Size
    fit: str
    side: int | None = None

    def to_shown(self, edges: Edges) -> Edges | None:
        """Return a box on the square.

        Args:
            edges: left, top, right and bottom in shares of the original image.

        Returns:
            The same box in shares of the square, cut at its edges; None if nothing of it is left.
        """
        (across, left), (down, top) = self.axes()
        x1, y1, x2, y2 = edges
        return clip((x1 * across + left, y1 * down + top, x2 * across + left, y2 * down + top))

    def to_original(self, edges: Edges) -> Edges | None:
        """Return a box on the original image, the inverse of :meth:`to_shown`.

        Args:
            edges: left, top, right and bottom in shares of the square.

        Returns:
            The same box in shares of the original image, cut at its edges; None if it lies in the padding.
        """
        (across, left), (down, top) = self.axes()
        x1, y1, x2, y2 = edges
        return clip(((x1 - left) / across, (y1 - top) / down, (x2 - left) / across, (y2 - top) / down))

    def axes(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return scale and shift of each axis: a share of the image x scale + shift = a share of the square."""
        if self.fit == "squash":
            return (1.0, 0.0), (1.0, 0.0)
        if self.fit == "pad_corner":
            across, down = corner_size(self.size, self.side) if self.side else self.size
            side = self.side or max(self.size)
            return (across / side, 0.0), (down / side, 0.0)
        return self._cropped() if self.fit == "crop" else self._padded()

    def _cropped(self) -> tuple[tuple[float, float], tuple[float, float]]:
        longest = MAX_ASPECT * min(self.size)
        cut = [max(0, length - longest) // 2 for length in self.size]  # a strip loses its ends before it is resized
        rest = [length - 2 * lost for length, lost in zip(self.size, cut, strict=True)]
        axes = []
        for length, lost, kept in zip(self.size, cut, rest, strict=True):
            if self.side is None:
                resized = kept / min(rest)
                start = (resized - 1) / 2
            else:
                pixels = self.side * kept // min(rest)
                resized, start = pixels / self.side, round((pixels - self.side) / 2) / self.side
            axes.append((length / kept * resized, -lost / kept * resized - start))
        return axes[0], axes[1]

    def _padded(self) -> tuple[tuple[float, float], tuple[float, float]]:
        width, height = self.size
        longest = max(width, height)
        if longest > MAX_PADDED and width != height:
            width, height = (max(1, round(length * MAX_PADDED / longest)) for length in self.size)
        side = max(width, height)
        return (width / side, (side - width) // 2 / side), (height / side, (side - height) // 2 / side)


def corner_size(size: Size, side: int) -> Size:
    """Return width and height in pixels of an image whose long side is resized to ``side``, rounded as by SAM.

    Args:
        size: width and height of the image in pixels.
        side: side of the square that it is laid in, in pixels.
    """
    # The same operations as in transformers' SamImageProcessor, so that a half is rounded alike.
    scale = side / max(size)
    width, height = (max(1, int(length * scale + 0.5)) for length in size)
    return width, height


def clip(edges: Edges) -> Edges | None:
    """Cut a box at the edges of its image.

    Args:
        edges: left, top, right and bottom in shares of the image.

    Returns:
        The edges within 0 and 1; None if nothing is left: the box lies outside, or has no area.
    """
    left, top, right, bottom = (min(1.0, max(0.0, edge)) for edge in edges)
    return (left, top, right, bottom) if right - left > _NOTHING and bottom - top > _NOTHING else None
