"""Image tokens instead of placeholders."""

from __future__ import annotations

from torch import Tensor


def inject_image_rows(embeddings: Tensor, image_rows: Tensor, image_positions: Tensor) -> Tensor:
    """Replace the embeddings at the placeholders with the projected image tokens.

    Args:
        embeddings: ``[R, S, d]`` embeddings of the tokens; the values at image positions are ignored.
        image_rows: ``[n, d]`` image tokens of all images, one after the other.
        image_positions: ``[n]`` int64 flat positions, ascending.

    Returns:
        ``[R, S, d]``, a new tensor; its gradient reaches ``image_rows`` only from their own positions.

    Raises:
        ValueError: if the number of rows differs from the number of positions.
    """
    rows, length, dim = embeddings.shape
    if image_rows.shape != (len(image_positions), dim):
        raise ValueError(
            f"{len(image_positions)} image positions of width {dim} cannot take image rows of shape"
            f" {tuple(image_rows.shape)}"
        )
    flat = embeddings.reshape(rows * length, dim)  # [R * S, d]
    return flat.index_copy(0, image_positions, image_rows).view(rows, length, dim)
