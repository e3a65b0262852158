"""What a row, a request or a user means by an image: a file, how to look at it, and what is drawn on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from medcap.data.images.views import DEFAULT_VIEW, View


class Drawing(ABC):
    """What is drawn on a picture when it is read. Equal drawings draw the same, and ``str`` of one names it."""

    @abstractmethod
    def on(self, picture: Image.Image, reader: Any) -> Image.Image:
        """Draw.

        Args:
            picture: the whole upright RGB picture, before it is resized.
            reader: the ``ImageReader`` that opened it.

        Returns:
            An RGB picture of the same size.

        Raises:
            UserError: if it does not belong on this picture.
        """


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image by its file: equal references show equal pixels, so what is made of one is made once.

    ``str`` of it is only the path for the default view. Fingerprints and files use that text, so that they stay what
    they were; another view and a drawing are named in it too.

    Attributes:
        path: path of the file, or of a member of a tar file.
        view: which picture of the file, and of which values.
        drawing: what is drawn on it.
    """

    path: str
    view: View = DEFAULT_VIEW
    drawing: Drawing | None = None

    def __str__(self) -> str:
        words = [self.path, *([str(self.view)] if self.view != DEFAULT_VIEW else [])]
        return " ".join(words if self.drawing is None else [*words, str(self.drawing)])

    @classmethod
    def of(cls, image: ImageRef | str | Path) -> ImageRef:
        """Return a reference unchanged, or a path as a reference in the default view."""
        return image if isinstance(image, ImageRef) else cls(str(image))
