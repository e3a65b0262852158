"""Packed rows -> the tensors of one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcap.data.packing import PADDING_DOCUMENT, PackedRow
from medcap.modules.label_loss import IGNORE_INDEX

# In bytes: enough for every dtype and for fast kernels.
_ALIGNMENT = 64


@dataclass
class Batch:
    """The tensors of one step; R rows of S tokens, N images.

    Attributes:
        tokens: ``[R, S]`` int64.
        targets: ``[R, S]`` int64, what each token is to predict, -100 where nothing is learnt.
        input_pos: ``[R, S]`` int64, restarts at every sample.
        document: ``[R, S]`` int64, -1 for padding.
        branch: ``[R, S]`` int64, 0 for the shared prefix.
        after_preamble: ``[R, S]`` int64, 1 where a token's document continues the preamble, else 0.
        target_positions: ``[n]`` int64 flat positions of the tokens that predict something, ascending: a device that
            had to look for them would stop for the answer.
        images: ``[N, 3, H, W]`` uint8, or None.
        image_positions: ``[N * K]`` int64 flat positions (row * S + column) of the image tokens, or None.
        num_tokens: tokens that are not padding.
        num_labels: tokens to learn.
        names: the records in it, for messages to the user.
        preamble: the tokens that come before the documents that continue it.
        static_shape: whether all batches of the run have this R and S, so that compiling for it pays.
        buffer: the memory that holds all the tensors, if it is one piece.
    """

    tokens: Tensor
    targets: Tensor
    input_pos: Tensor
    document: Tensor
    branch: Tensor
    after_preamble: Tensor
    target_positions: Tensor
    images: Tensor | None
    image_positions: Tensor | None
    num_tokens: int
    num_labels: int
    names: tuple[str, ...] = ()
    preamble: tuple[int, ...] = ()
    static_shape: bool = False
    buffer: Tensor | None = None

    @property
    def num_images(self) -> int:
        """Images in the batch."""
        return 0 if self.images is None else len(self.images)

    def pin_memory(self) -> Batch:
        """Move to page-locked memory; the data loader calls it."""
        return self.in_one_buffer(pin=True)

    def in_one_buffer(self, pin: bool = False) -> Batch:
        """The same batch with all its tensors in one piece of memory, so that one copy takes it to a device.

        Args:
            pin: use page-locked memory, which a copy need not wait for.
        """
        tensors = [tensor.contiguous() for tensor in self._tensors().values()]
        places, end = [], 0
        for tensor in tensors:
            places.append(end)
            end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        buffer = torch.empty(end, dtype=torch.uint8, pin_memory=pin)
        for tensor, place in zip(tensors, places, strict=True):
            buffer[place : place + tensor.nbytes] = tensor.flatten().view(torch.uint8)
        return self._over(buffer)

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``, copied without waiting where the memory is pinned."""
        if self.tokens.device == device:
            return self
        whole = self if self.buffer is not None else self.in_one_buffer()
        return whole._over(whole.buffer.to(device, non_blocking=True))

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "buffer"}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def _over(self, buffer: Tensor) -> Batch:
        """The batch whose tensors lie in ``buffer``, in their order."""
        views, place = {}, 0
        for name, tensor in self._tensors().items():
            views[name] = buffer[place : place + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            place += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        return replace(self, **views, buffer=buffer)

    def without_padding(self) -> Batch:
        """The same tokens in one row, one document behind another."""
        kept = (self.document.flatten() != PADDING_DOCUMENT).nonzero().flatten()  # [n]
        document = self.document + (self.document.max() + 1) * torch.arange(len(self.document))[:, None]
        rows = {
            "tokens": self.tokens,
            "targets": self.targets,
            "input_pos": self.input_pos,
            "document": document,
            "branch": self.branch,
            "after_preamble": self.after_preamble,
        }
        flat = {name: tensor.flatten()[kept][None] for name, tensor in rows.items()}  # [1, n]
        flat["target_positions"] = torch.searchsorted(kept, self.target_positions)
        if self.image_positions is not None:
            flat["image_positions"] = torch.searchsorted(kept, self.image_positions)
        return replace(self, **flat, buffer=None)

    def parts(self, max_tokens: int) -> list[Batch]:
        """The batch without padding, cut between documents; the sum of the parts' losses is the loss of the whole.

        Args:
            max_tokens: of a part, unless a single document is longer.

        Returns:
            The parts, in order.
        """
        flat = self.without_padding()
        sizes = torch.unique_consecutive(flat.document[0], return_counts=True)[1].tolist()
        cuts, size = [0], 0
        for document in sizes:
            if size and size + document > max_tokens:
                cuts.append(cuts[-1] + size)
                size = 0
            size += document
        cuts.append(cuts[-1] + size)
        return [flat._between(start, stop) for start, stop in pairwise(cuts)]

    def _between(self, start: int, stop: int) -> Batch:
        """Tokens ``start`` to ``stop`` of a batch of one row, with the images that they show."""
        rows = ("tokens", "targets", "input_pos", "document", "branch", "after_preamble")
        own: dict[str, Any] = {name: getattr(self, name)[:, start:stop] for name in rows}
        if self.images is not None:
            inside = (self.image_positions >= start) & (self.image_positions < stop)
            own["image_positions"] = self.image_positions[inside] - start
            shown = inside.view(len(self.images), -1)[:, 0]
            own["images"] = self.images[shown] if shown.any() else None
            if own["images"] is None:
                own["image_positions"] = None
        inside = (self.target_positions >= start) & (self.target_positions < stop)
        own["target_positions"] = self.target_positions[inside] - start
        own["buffer"] = None
        own["num_tokens"], own["num_labels"] = stop - start, len(own["target_positions"])
        return replace(self, **own)


def idle_batch() -> Batch:
    """A batch without samples: its loss is 0 and so are its gradients, but the language model's layers run."""
    tokens = torch.zeros(1, 2, dtype=torch.int64)  # [R, S]
    targets = torch.full_like(tokens, IGNORE_INDEX)
    positions = torch.arange(2)[None]  # [R, S]
    nowhere = torch.zeros(0, dtype=torch.int64)
    return Batch(tokens, targets, positions, tokens, tokens, tokens, nowhere, None, None, num_tokens=0, num_labels=0)


def make_batch(
    rows: Sequence[PackedRow],
    image_token_id: int,
    num_image_tokens: int,
    load_image: Callable[[object], Tensor],
    names: tuple[str, ...] = (),
    preamble: tuple[int, ...] = (),
    static_shape: bool = False,
) -> Batch:
    """Stack rows and load their images.

    Args:
        rows: all of one length.
        image_token_id: the id at image positions.
        num_image_tokens: K, placeholders for each image.
        load_image: an image of a row -> ``[3, H, W]`` uint8.
        names: the records in the rows.
        preamble: as in ``Batch``.
        static_shape: as in ``Batch``.

    Returns:
        The batch.

    Raises:
        ValueError: if the placeholders are not K for each image.
    """
    tokens = np.stack([row.tokens for row in rows])  # [R, S]
    targets = np.stack([row.targets for row in rows])
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
        targets=torch.from_numpy(targets),
        input_pos=torch.from_numpy(np.stack([row.input_pos for row in rows])),
        document=torch.from_numpy(document),
        branch=torch.from_numpy(np.stack([row.branch for row in rows])),
        after_preamble=torch.from_numpy(np.stack([row.after_preamble for row in rows])),
        target_positions=torch.from_numpy(np.flatnonzero(targets != IGNORE_INDEX)),
        images=torch.stack([loaded[image] for image in images]) if images else None,  # [N, 3, H, W]
        image_positions=torch.from_numpy(positions) if images else None,
        num_tokens=int((document != PADDING_DOCUMENT).sum()),
        num_labels=int((targets != IGNORE_INDEX).sum()),
        names=names,
        preamble=preamble,
        static_shape=static_shape,
    )
