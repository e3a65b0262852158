"""Packed rows -> the tensors of one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from medcap.data.packing import PADDING_DOCUMENT, PackedRow
from medcap.modules.label_loss import IGNORE_INDEX


@dataclass
class Batch:
    """The tensors of one step; R rows of S tokens, N images.

    Attributes:
        tokens: ``[R, S]`` int64.
        labels: ``[R, S]`` int64, -100 where nothing is learnt.
        input_pos: ``[R, S]`` int64, restarts at every sample.
        document: ``[R, S]`` int64, -1 for padding.
        branch: ``[R, S]`` int64, 0 for the shared prefix.
        images: ``[N, 3, H, W]`` uint8, or None.
        image_positions: ``[N * K]`` int64 flat positions (row * S + column) of the image tokens, or None.
        num_tokens: tokens that are not padding.
        num_labels: tokens to learn.
        names: the records in it, for messages to the user.
        static_shape: whether all batches of the run have this R and S, so that compiling for it pays.
    """

    tokens: Tensor
    labels: Tensor
    input_pos: Tensor
    document: Tensor
    branch: Tensor
    images: Tensor | None
    image_positions: Tensor | None
    num_tokens: int
    num_labels: int
    names: tuple[str, ...] = ()
    static_shape: bool = False

    @property
    def num_images(self) -> int:
        """Images in the batch."""
        return 0 if self.images is None else len(self.images)

    def pin_memory(self) -> Batch:
        """Move to page-locked memory; the data loader calls it."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``, copied without waiting where the memory is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: function(v) if isinstance(v, Tensor) else v for name, v in values.items()})


def idle_batch() -> Batch:
    """A batch without samples: its loss is 0 and so are its gradients, but the language model's layers run."""
    tokens = torch.zeros(1, 2, dtype=torch.int64)  # [R, S]
    labels = torch.full_like(tokens, IGNORE_INDEX)
    positions = torch.arange(2)[None]  # [R, S]
    return Batch(tokens, labels, positions, tokens, tokens, None, None, num_tokens=0, num_labels=0)


def make_batch(
    rows: Sequence[PackedRow],
    image_token_id: int,
    num_image_tokens: int,
    load_image: Callable[[object], Tensor],
    names: tuple[str, ...] = (),
    static_shape: bool = False,
) -> Batch:
    """Stack rows and load their images.

    Args:
        rows: all of one length.
        image_token_id: the id at image positions.
        num_image_tokens: K, placeholders for each image.
        load_image: an image of a row -> ``[3, H, W]`` uint8.
        names: the records in the rows.
        static_shape: as in ``Batch``.

    Returns:
        The batch.

    Raises:
        ValueError: if the placeholders are not K for each image.
    """
    tokens = np.stack([row.tokens for row in rows])  # [R, S]
    labels = np.stack([row.labels for row in rows])
    document = np.stack([row.document for row in rows])
    positions = np.flatnonzero(tokens == image_token_id)  # [N * K]
    images = [image for row in rows for image in row.images]
    # [Contract] the n-th image fills the n-th run: a wrong count would shift every later picture.
    if len(positions) != len(images) * num_image_tokens:
        raise ValueError(
            f"{len(positions)} placeholders for {len(images)} images of {num_image_tokens} tokens in {', '.join(names)}"
        )
    loaded = {image: load_image(image) for image in dict.fromkeys(images)}
    return Batch(
        tokens=torch.from_numpy(tokens),
        labels=torch.from_numpy(labels),
        input_pos=torch.from_numpy(np.stack([row.input_pos for row in rows])),
        document=torch.from_numpy(document),
        branch=torch.from_numpy(np.stack([row.branch for row in rows])),
        images=torch.stack([loaded[image] for image in images]) if images else None,  # [N, 3, H, W]
        image_positions=torch.from_numpy(positions) if images else None,
        num_tokens=int((document != PADDING_DOCUMENT).sum()),
        num_labels=int((labels != IGNORE_INDEX).sum()),
        names=names,
        static_shape=static_shape,
    )
