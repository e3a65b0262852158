"""Packed rows -> the tensors of one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcap.data.images.reference import ImageRef
from medcap.data.packing import PADDING_DOCUMENT, TOKEN_FIELDS, PackedRow
from medcap.data.target_tensors import masked_images, target_counts, target_tensors
from medcap.modules.flex_layout import flex_layout
from medcap.modules.label_loss import IGNORE_INDEX

# In bytes: enough for every dtype and for fast kernels.
_ALIGNMENT = 64


TEXT = "text"  # the loss term that every batch has: cross-entropy of the targets


# The axis along which a field of a batch has entries; it decides how a batch is cut. Positions are flat: row * S +
# column.
_TOKEN = {"axis": "token"}  # [R, S]
_INDEX = {"axis": "index"}  # positions of tokens
_IMAGE = {"axis": "image"}  # one entry for each picture
_IMAGE_INDEX = {"axis": "image_index"}  # positions of image tokens, as many for each picture as its length
_BOX = {"axis": "box"}  # one entry for each box
_BOX_INDEX = {"axis": "box_index"}  # the position of a token for each box
_MASK = {"axis": "mask"}  # likewise for masks
_MASK_INDEX = {"axis": "mask_index"}
_REGION = {"axis": "region"}  # likewise for regions of questions
_REGION_INDEX = {"axis": "region_index"}
_MASKED = {"axis": "masked"}  # which pictures have masks
_LAYOUT = {"axis": "layout"}  # which tokens attend to which, in a form of its own
_MASK_PICTURE = {"axis": "mask_picture"}  # one entry for each picture that the mask decoder is shown


@dataclass
class Batch:
    """The tensors of one step; R rows of S tokens, N pictures.

    Attributes:
        tokens: ``[R, S]`` int64.
        targets: ``[R, S]`` int64, what each token is to predict, -100 where nothing is learnt.
        input_pos: ``[R, S]`` int64, restarts at every sample.
        document: ``[R, S]`` int64, -1 for padding.
        branch: ``[R, S]`` int64, 0 for the shared prefix.
        after_prompt_prefix: ``[R, S]`` int64, 1 where a token's document continues the prompt prefix, else 0.
        target_positions: ``[n]`` int64 flat positions of the tokens that predict something, ascending: a device that
            had to look for them would stop for the answer.
        images: ``[N, 3, H, W]`` uint8, the pictures that the tower is shown, or None.
        image_lengths: ``[N]`` int64, image tokens of each picture, or None.
        image_positions: ``[sum of image_lengths]`` int64 flat positions (row * S + column) of the image tokens, picture
            after picture, or None.
        box_targets: ``[M, 4]`` float32: left, top, right and bottom of each box that an answer names by a word, in
            shares of its picture, zeros for one that is not there; None without boxes.
        box_seen: ``[M]`` float32, 1 for each box that its picture shows and 0 for the others, or None.
        box_images: ``[M]`` int64, the picture that each box lies on, or None.
        box_positions: ``[M]`` int64 flat positions of the tokens that predict the boxes' words, ascending, or None.
        mask_targets: ``[M, 2, side, side]`` uint8: how much of each pixel of its picture a mask covers, 255 for all of
            it, and how much of the pixel is image and not padding; None without masks.
        mask_seen: ``[M]`` float32 as for boxes, or None.
        mask_images: ``[M]`` int64 likewise, or None; pictures of ``mask_pictures`` where there are any.
        mask_positions: ``[M]`` int64 likewise, or None.
        masked_images: ``[m]`` int64 the different ones of ``mask_images``, ascending, or None. Like the next, it is
            made with the batch: a device that had to look for them would stop for the answer.
        masked_which: ``[M]`` int64 for each mask the place of its picture in ``masked_images``, or None.
        region_weights: ``[Q, T]`` float32, how much each patch of its picture weighs in each region of a question; None
            without regions.
        region_images: ``[Q]`` int64, the picture that each region lies on, or None.
        region_positions: ``[Q]`` int64, flat position of the first placeholder of each region, or None.
        mask_pictures: ``[P, 3, S, S]`` uint8, the images with masks as the mask decoder is shown them; None where it
            looks at the tower's pictures.
        flex_layout: ``[n]`` int32, from which a GPU makes the attention mask of rows of ``static_shape``, or None.
        num_tokens: tokens that are not padding.
        counts: loss term -> what its sum over this batch is divided by, once all batches of a step are counted;
            ``text``: tokens to learn; ``box_l1`` and ``box_giou``: boxes that are there;
            ``box_seen`` and ``box_look``: all boxes; those of masks likewise.
        names: the records in it, for messages to the user.
        prompt_prefix: the tokens that come before the documents that continue it.
        causal: whether each row is one document without branches, after the prompt prefix if there is one, and then
            padding: what a token sees before itself is what it must see, and no mask is needed.
        static_shape: whether all batches of the run have this R and S, so that compiling for it pays.
        buffer: the memory that holds all the tensors, if it is one piece.
    """

    tokens: Tensor = field(metadata=_TOKEN)
    targets: Tensor = field(metadata=_TOKEN)
    input_pos: Tensor = field(metadata=_TOKEN)
    document: Tensor = field(metadata=_TOKEN)
    branch: Tensor = field(metadata=_TOKEN)
    after_prompt_prefix: Tensor = field(metadata=_TOKEN)
    target_positions: Tensor = field(metadata=_INDEX)
    images: Tensor | None = field(metadata=_IMAGE)
    image_lengths: Tensor | None = field(metadata=_IMAGE)
    image_positions: Tensor | None = field(metadata=_IMAGE_INDEX)
    num_tokens: int
    counts: Mapping[str, int]
    names: tuple[str, ...] = ()
    prompt_prefix: tuple[int, ...] = ()
    static_shape: bool = False
    causal: bool = False
    buffer: Tensor | None = None
    box_targets: Tensor | None = field(default=None, metadata=_BOX)
    box_seen: Tensor | None = field(default=None, metadata=_BOX)
    box_images: Tensor | None = field(default=None, metadata=_BOX)
    box_positions: Tensor | None = field(default=None, metadata=_BOX_INDEX)
    mask_targets: Tensor | None = field(default=None, metadata=_MASK)
    mask_seen: Tensor | None = field(default=None, metadata=_MASK)
    mask_images: Tensor | None = field(default=None, metadata=_MASK)
    mask_positions: Tensor | None = field(default=None, metadata=_MASK_INDEX)
    masked_images: Tensor | None = field(default=None, metadata=_MASKED)
    masked_which: Tensor | None = field(default=None, metadata=_MASKED)
    region_weights: Tensor | None = field(default=None, metadata=_REGION)
    region_images: Tensor | None = field(default=None, metadata=_REGION)
    region_positions: Tensor | None = field(default=None, metadata=_REGION_INDEX)
    mask_pictures: Tensor | None = field(default=None, metadata=_MASK_PICTURE)
    flex_layout: Tensor | None = field(default=None, metadata=_LAYOUT)

    @property
    def num_images(self) -> int:
        """Pictures in the batch."""
        return 0 if self.images is None else len(self.images)

    def pin_memory(self) -> Batch:
        """Move to page-locked memory; the data loader calls it."""
        return self.in_one_buffer(pin=True)

    def in_one_buffer(self, pin: bool = False) -> Batch:
        """Return the same batch with all its tensors in one piece of memory, so that one copy takes it to a device.

        Args:
            pin: use page-locked memory, which a copy need not wait for.
        """
        tensors = [tensor.contiguous() for tensor in self._tensors().values()]
        begins, end = [], 0
        for tensor in tensors:
            begins.append(end)
            end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        buffer = torch.empty(end, dtype=torch.uint8, pin_memory=pin)
        for tensor, begin in zip(tensors, begins, strict=True):
            buffer[begin : begin + tensor.nbytes] = tensor.flatten().view(torch.uint8)
        return self._over(buffer)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``, copied without waiting where the memory is pinned."""
        if self.tokens.device == device:
            return self
        buffer = self.in_one_buffer().buffer if self.buffer is None else self.buffer
        assert buffer is not None
        return self._over(buffer.to(device, non_blocking=True))

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "buffer"}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def _over(self, buffer: Tensor) -> Batch:
        """Return the batch whose tensors are in ``buffer``, in their order."""
        views, begin = {}, 0
        for name, tensor in self._tensors().items():
            views[name] = buffer[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            begin += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        return replace(self, **views, buffer=buffer)

    def _on_axis(self, axis: Mapping[str, str]) -> dict[str, Tensor]:
        """Return the tensors of one axis that this batch has."""
        names = [field.name for field in fields(self) if field.metadata == axis]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def with_rows(self, num_rows: int) -> Batch:
        """Return the batch with rows of padding at its end, so that it has ``num_rows`` rows unless it has more."""
        missing = num_rows - len(self.tokens)
        if missing <= 0:
            return self
        # Any word does for what is only ever attended to by padding.
        values = {name: 0 if value is None else value for name, value in TOKEN_FIELDS.items()}
        filled = {
            name: torch.cat([tensor, tensor.new_full((missing, tensor.shape[1]), values[name])])
            for name, tensor in self._on_axis(_TOKEN).items()
        }
        return replace(self, **filled, flex_layout=None, buffer=None)

    def with_flex_layout(self) -> Batch:
        """Return the batch with ``flex_layout``; one that is on a GPU already makes the host wait."""
        if self.flex_layout is not None:
            return self
        columns = (self.document, self.branch, self.after_prompt_prefix)
        document, branch, after = (column.cpu().numpy() for column in columns)
        found = flex_layout(document, branch, after, len(self.prompt_prefix))
        return replace(self, flex_layout=torch.from_numpy(found).to(self.tokens.device), buffer=None)

    def without_padding(self) -> Batch:
        """Return the same tokens in one row, one document after another."""
        kept = (self.document.flatten() != PADDING_DOCUMENT).nonzero().flatten()  # [n]
        # Documents are numbered within their row; joined into one row, each needs a new number.
        document = self.document + (self.document.max() + 1) * torch.arange(len(self.document))[:, None]
        rows = self._on_axis(_TOKEN) | {"document": document}
        flat = {name: tensor.flatten()[kept][None] for name, tensor in rows.items()}  # [1, n]
        indices = self._on_axis(_INDEX) | self._on_axis(_IMAGE_INDEX) | self._on_axis(_BOX_INDEX)
        indices |= self._on_axis(_MASK_INDEX) | self._on_axis(_REGION_INDEX)
        for name, positions in indices.items():
            flat[name] = torch.searchsorted(kept, positions)
        return replace(self, **flat, causal=False, flex_layout=None, buffer=None)

    def micro_batches(self, max_tokens: int) -> list[Batch]:
        """Cut the batch, without its padding, between documents; the parts' losses add up to the loss of the whole.

        Args:
            max_tokens: tokens of a part, unless a single document is longer.

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
        own: dict[str, Any] = {name: tensor[:, start:stop] for name, tensor in self._on_axis(_TOKEN).items()}
        for name, positions in self._on_axis(_INDEX).items():
            own[name] = positions[(positions >= start) & (positions < stop)] - start
        for name, positions in self._on_axis(_IMAGE_INDEX).items():
            inside = (positions >= start) & (positions < stop)
            assert self.image_lengths is not None, "there are images"
            # A document holds all tokens of its pictures, so the first one of each decides.
            shown = inside[self.image_lengths.cumsum(0) - self.image_lengths]  # [N]
            anything = bool(shown.any())
            own[name] = positions[inside] - start if anything else None
            own |= {key: value[shown] if anything else None for key, value in self._on_axis(_IMAGE).items()}
        own["num_tokens"], own["counts"] = stop - start, dict.fromkeys(self.counts, 0)
        own["counts"][TEXT] = len(own["target_positions"])
        for axis, index_axis in ((_BOX, _BOX_INDEX), (_MASK, _MASK_INDEX), (_REGION, _REGION_INDEX)):
            targets = self._targets_between(start, stop, axis, index_axis)
            own |= targets
            own["counts"] |= target_counts(targets)
        own |= self._pictures_of(own.get("mask_images"))
        own |= masked_images(own.get("mask_images"))
        return replace(self, **own, buffer=None)

    def _targets_between(
        self, start: int, stop: int, axis: Mapping[str, str], index_axis: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return the fields of the boxes, masks or regions at tokens ``start`` to ``stop`` of a batch of one row."""
        own: dict[str, Any] = {}
        for name, positions in self._on_axis(index_axis).items():
            assert self.image_positions is not None and self.image_lengths is not None, "they lie on pictures"
            inside = (positions >= start) & (positions < stop)  # [M]
            values = self._on_axis(axis)
            if not bool(inside.any()):
                return dict.fromkeys([name, *values])
            own = {name: positions[inside] - start} | {key: value[inside] for key, value in values.items()}
            if axis == _MASK and self.mask_pictures is not None:
                return own
            first_tokens = self.image_positions[self.image_lengths.cumsum(0) - self.image_lengths]  # [N]
            own[f"{axis['axis']}_images"] -= (first_tokens < start).sum()
        return own

    def _pictures_of(self, mask_images: Tensor | None) -> dict[str, Any]:
        """Return the mask decoder's own pictures of some masks, and the masks' places among them."""
        if self.mask_pictures is None or mask_images is None:
            return {"mask_pictures": None}
        kept, places = mask_images.unique(return_inverse=True)
        return {"mask_pictures": self.mask_pictures[kept], "mask_images": places}


def dummy_batch() -> Batch:
    """Make a batch without samples: its loss and gradients are 0, but the language model's layers run."""
    tokens = torch.zeros(1, 2, dtype=torch.int64)  # [R, S]
    targets = torch.full_like(tokens, IGNORE_INDEX)
    positions = torch.arange(2)[None]  # [R, S]
    nowhere = torch.zeros(0, dtype=torch.int64)
    return Batch(
        tokens, targets, positions, tokens, tokens, tokens, nowhere, None, None, None, num_tokens=0, counts={TEXT: 0}
    )


def make_batch(
    rows: Sequence[PackedRow],
    image_token_id: int,
    num_image_tokens: int,
    load_image: Callable[[ImageRef], Tensor],
    names: tuple[str, ...] = (),
    prompt_prefix: tuple[int, ...] = (),
    static_shape: bool = False,
    mask_picture: Callable[[ImageRef], Tensor] | None = None,
) -> Batch:
    """Stack rows and load their images.

    Args:
        rows: all of one length.
        image_token_id: the id at image positions.
        num_image_tokens: placeholders for each picture.
        load_image: an image of a row -> ``[3, H, W]`` uint8, or ``[n, 3, H, W]`` if it is shown in n pictures.
        names: the records in the rows.
        prompt_prefix: prompt prefix as in ``Batch``.
        static_shape: static shape as in ``Batch``.
        mask_picture: an image with masks -> ``[3, S, S]`` uint8, what the mask decoder is shown of it; None where it
            looks at the tower's pictures.

    Returns:
        The batch.

    Raises:
        ValueError: if the placeholders are not those of the images.
    """
    columns = {name: np.stack([getattr(row, name) for row in rows]) for name in TOKEN_FIELDS}  # each [R, S]
    tokens, targets = columns["tokens"], columns["targets"]
    positions = np.flatnonzero(tokens == image_token_id)
    images = [image for row in rows for image in row.images]
    lengths = [length for row in rows for length in row.image_lengths]
    loaded = {image: _pictures(load_image(image)) for image in dict.fromkeys(images)}
    pictures = [loaded[image] for image in images]
    _check_runs(positions, tokens.shape[1], lengths, [len(shown) * num_image_tokens for shown in pictures], names)
    num_pictures = sum(map(len, pictures))
    further = target_tensors(rows, pictures, tokens.shape[1], mask_picture)
    counts = {TEXT: int((targets != IGNORE_INDEX).sum())} | target_counts(further)
    return Batch(
        **{name: torch.from_numpy(column) for name, column in columns.items()},
        target_positions=torch.from_numpy(np.flatnonzero(targets != IGNORE_INDEX)),
        images=torch.cat(pictures) if images else None,  # [N, 3, H, W]
        image_lengths=torch.full((num_pictures,), num_image_tokens) if images else None,
        image_positions=torch.from_numpy(positions) if images else None,
        num_tokens=int((columns["document"] != PADDING_DOCUMENT).sum()),
        counts=counts,
        names=names,
        prompt_prefix=prompt_prefix,
        static_shape=static_shape,
        causal=_is_causal(columns, len(prompt_prefix)),
        **further,
    )


def _is_causal(columns: Mapping[str, np.ndarray], prompt_prefix_length: int) -> bool:
    """Return ``causal`` of a batch."""
    document, after = columns["document"], columns["after_prompt_prefix"]
    alone = bool((document <= 0).all() and (columns["branch"] == 0).all())  # padding has -1
    return alone and (prompt_prefix_length == 0 or bool(after[document != PADDING_DOCUMENT].all()))


def _pictures(pixels: Tensor) -> Tensor:
    """``[3, H, W]`` or ``[n, 3, H, W]`` -> ``[n, 3, H, W]``."""
    return pixels.reshape(-1, *pixels.shape[-3:])


def _check_runs(
    positions: np.ndarray, row_length: int, lengths: list[int], wanted: list[int], names: tuple[str, ...]
) -> None:
    """Check that the placeholders of each image are one run in one row, as long as the image's tokens.

    Args:
        positions: ``[n]`` flat positions of all placeholders.
        row_length: S.
        lengths: placeholders of each image.
        wanted: tokens of each image.
        names: the records, for the message.
    """
    # [Contract] the n-th image fills the n-th run: a wrong length would shift every later picture.
    if lengths != wanted or len(positions) != sum(lengths):
        raise ValueError(
            f"{len(positions)} placeholders for {len(wanted)} images in {', '.join(names)}: they have {wanted} tokens,"
            f" their runs {lengths}"
        )
    ends = np.cumsum(np.array(lengths, dtype=np.int64))
    first, last = positions[ends - np.array(lengths, dtype=np.int64)], positions[ends - 1]
    if (last - first + 1 != lengths).any() or (first // row_length != last // row_length).any():
        raise ValueError(f"the placeholders of an image are not one run in {', '.join(names)}")
