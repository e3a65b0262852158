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
    """

    rows: Tensor
    patches: Tensor | None
    frame: Frame
    picture: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return sum(part.nbytes for part in (self.rows, self.patches, self.picture) if part is not None)
