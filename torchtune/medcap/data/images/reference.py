"""What a row, a request or a user means by an image: a file, and how to look at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcap.data.images.views import DEFAULT_VIEW, View


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image by its file: equal references show equal pixels, so what is made of one is made once.

    ``str`` of it is only the path for the default view. Fingerprints and files use that text, so that they stay what
    they were; with another view it names the view too.

    Attributes:
        path: path of the file, or of a member of a tar file.
        view: which picture of the file, and of which values.
    """

    path: str
    view: View = DEFAULT_VIEW

    def __str__(self) -> str:
        return self.path if self.view == DEFAULT_VIEW else f"{self.path} {self.view}"

    @classmethod
    def of(cls, image: ImageRef | str | Path) -> ImageRef:
        """Return a reference unchanged, or a path as a reference in the default view."""
        return image if isinstance(image, ImageRef) else cls(str(image))
