"""What decoding knows of an image that was encoded."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medcap.data.boxes.frame import Frame


@dataclass(frozen=True)
class SeenImage:
    """An image that was encoded.

    Attributes:
        rows: ``[K_i, d]`` image tokens.
        patches: ``[T, D]`` patch tokens of the picture that shows all of it; None where no component reads them.
        frame: where its parts lie in that picture.
        picture: ``[3, H, W]`` uint8, that picture; None where no component reads it.
        own_picture: ``[3, S, S]`` uint8, the picture of what looks at another than the tower; None without such.
        own_frame: where the image's parts lie in it.
    """

    rows: Tensor
    patches: Tensor | None
    frame: Frame
    picture: Tensor | None = None
    own_picture: Tensor | None = None
    own_frame: Frame | None = None

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        parts = (self.rows, self.patches, self.picture, self.own_picture)
        return sum(part.nbytes for part in parts if part is not None)
