"""Pack several samples into one row, with all questions of an image after one copy of the image.

A *document* is a shared prefix (branch 0: the beginning of the text up to its last image token) and one branch for
each sample that continues it. A token attends to the prefix of its own document and to its own branch, so the
branches do not see each other, and the loss and its gradient are exactly the sums over the separate samples.

Which samples share a prefix, and which row holds which samples, is decided on a table of lengths:
neither tokens nor images are needed.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medcap.data.answer_targets import BoxTarget, MaskTarget
from medcap.data.images.reference import ImageRef
from medcap.data.question_regions import QuestionRegion
from medcap.modules.label_loss import IGNORE_INDEX

PADDING_DOCUMENT = -1


@dataclass(frozen=True)
class Sample:
    """A tokenized record.

    It holds only what must be computed: it ends with the last token that predicts something, and does not
    repeat the prompt prefix that it continues.

    Attributes:
        tokens: ``[n]`` int32.
        targets: ``[n]`` int32, what is to be predicted at each token: its successor, -100 where nothing is learnt.
        images: the images of its placeholders, in order.
        image_lengths: placeholders of each image.
        images_end: the position after its last image token, 0 without images.
        name: how messages to the user call it.
        start: the position of its first token: the tokens of the prompt prefix that it continues, or 0.
        boxes: the boxes that its answers name by a word.
        masks: the masks likewise.
        regions: the regions that its questions name.
    """

    tokens: np.ndarray
    targets: np.ndarray
    images: tuple[ImageRef, ...]
    image_lengths: tuple[int, ...]
    images_end: int
    name: str
    start: int = 0
    boxes: tuple[BoxTarget, ...] = ()
    masks: tuple[MaskTarget, ...] = ()
    regions: tuple[QuestionRegion, ...] = ()


@dataclass(frozen=True)
class SampleTable:
    """The numbers of n samples that planning needs.

    Attributes:
        lengths: ``[n]`` int32 tokens; 0 for a row that cannot be used.
        prefixes: ``[n]`` int32 tokens up to the last image token; 0 for a sample that shares nothing.
        groups: ``[n]`` int64; samples with a prefix and the same number have the same images and prefix.
    """

    lengths: np.ndarray
    prefixes: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Documents:
    """Several samples laid out in one row.

    Attributes:
        samples: ``[n]`` int64, document after document.
        starts: ``[d + 1]`` int64; document i is ``samples[starts[i] : starts[i + 1]]``.
        lengths: ``[d]`` int64 tokens.
    """

    samples: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Rows:
    """Documents put into rows.

    Attributes:
        documents: ``[d]`` int64, row after row.
        starts: ``[r + 1]`` int64; row i is ``documents[starts[i] : starts[i + 1]]``.
    """

    documents: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class PackedRow:
    """One row of a batch; all arrays ``[S]`` int64.

    Attributes:
        tokens: ids, padded at the end.
        targets: what is to be predicted at each token, -100 for nothing.
        input_pos: the position of each token in its sample.
        document: which document a token belongs to, -1 for padding.
        branch: 0 in the shared prefix, 1, 2, ... in the branches.
        after_prompt_prefix: 1 where a token's document continues the prompt prefix, else 0.
        images: the images of the row's placeholders, in order.
        image_lengths: placeholders of each image.
        boxes: the boxes that answers name by a word.
        masks: the masks likewise.
        regions: the regions that its questions name.
    """

    tokens: np.ndarray
    targets: np.ndarray
    input_pos: np.ndarray
    document: np.ndarray
    branch: np.ndarray
    after_prompt_prefix: np.ndarray
    images: tuple[ImageRef, ...]
    image_lengths: tuple[int, ...]
    boxes: tuple[BoxTarget, ...] = ()
    masks: tuple[MaskTarget, ...] = ()
    regions: tuple[QuestionRegion, ...] = ()


# The arrays of a row that have one entry per token -> their value in padding. None stands for pad_id.
TOKEN_FIELDS = {
    "tokens": None,
    "targets": IGNORE_INDEX,
    "input_pos": 0,
    "document": PADDING_DOCUMENT,
    "branch": 0,
    "after_prompt_prefix": 0,
}


def sharing(sample: Sample) -> tuple[int, int]:
    """Return what a sample can share with others: the tokens up to its last image.

    Returns:
        Its prefix and its group, as in ``SampleTable``.
    """
    # Positions with a target must be in the sample's own branch, and so must regions: their tokens are equal, what they
    # show is not.
    own = [_first_target(sample), *(region.position for region in sample.regions)]
    if not sample.images or sample.images_end > min(own):
        return 0, 0
    shown = tuple(map(str, sample.images))  # the text, as the digest is kept on disk
    digest = hashlib.blake2b(repr((sample.start, shown)).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(sample.tokens[: sample.images_end], dtype=np.int32).tobytes())
    return sample.images_end, int.from_bytes(digest.digest(), "little", signed=True)


def make_table(samples: Sequence[Sample]) -> SampleTable:
    """Return the table of samples that are at hand."""
    shared = np.array([sharing(sample) for sample in samples], dtype=np.int64).reshape(-1, 2)
    lengths = np.array([len(sample.tokens) for sample in samples], dtype=np.int32)
    return SampleTable(lengths, shared[:, 0].astype(np.int32), shared[:, 1])


def make_documents(table: SampleTable, order: np.ndarray, row_length: int, share: bool = True) -> Documents:
    """Group the samples that show the same images, so that each image is computed once.

    Args:
        table: table of all samples.
        order: ``[n]`` int64, the samples to use in the order wanted; unusable ones are left out.
        row_length: no document gets longer; the questions of one image are spread over as many as needed.
        share: False makes one document of every sample.

    Returns:
        Documents in the order of their first sample.

    Raises:
        ValueError: if a single sample is longer than ``row_length``.
    """
    order = np.asarray(order, dtype=np.int64)
    order = order[table.lengths[order] > 0]
    lengths = table.lengths[order].astype(np.int64)
    if len(lengths) and lengths.max() > row_length:
        worst = int(lengths.argmax())
        raise ValueError(f"sample {order[worst]} has {lengths[worst]} tokens, a row {row_length}")
    prefixes = table.prefixes[order].astype(np.int64)
    members, starts = _group(table.groups[order], (prefixes > 0) & share)
    own = (lengths - prefixes)[members]
    sizes = np.diff(starts)
    totals = np.add.reduceat(own, starts[:-1]) + prefixes[members[starts[:-1]]] if len(sizes) else sizes
    if (totals > row_length).any():
        starts = _split(starts, totals, own, prefixes[members], row_length)
        totals = np.add.reduceat(own, starts[:-1]) + prefixes[members[starts[:-1]]]
    return Documents(order[members], starts, totals)


def _group(groups: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places by group, groups by their first place: members ``[n]`` and starts ``[g + 1]``."""
    ids = np.arange(len(groups), dtype=np.int64)  # a sample that shares nothing is its own group
    if shares.any():
        _, first, inverse = np.unique(groups[shares], return_index=True, return_inverse=True)
        ids[shares] = ids[shares][first][inverse]  # a group is called after its first place
    members = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.diff(ids[members], prepend=-1))
    return members, np.append(starts, len(groups))


def _split(
    starts: np.ndarray, totals: np.ndarray, own: np.ndarray, prefixes: np.ndarray, row_length: int
) -> np.ndarray:
    new = []
    for group in np.flatnonzero(totals > row_length):
        length = prefixes[starts[group]]
        for member in range(starts[group], starts[group + 1]):
            if member > starts[group] and length + own[member] > row_length:
                new.append(member)
                length = prefixes[member]
            length += own[member]
    return np.sort(np.concatenate([starts, np.array(new, dtype=np.int64)]))


def pack_documents(
    lengths: Sequence[int] | np.ndarray,
    row_length: int,
    window: int = 1024,
    generator: np.random.Generator | None = None,
    far: bool = True,
) -> Rows:
    """Fill rows with documents: best fit, longest first, within a window.

    The window keeps the shuffled order roughly as it is.

    Args:
        lengths: ``[d]`` tokens of each document.
        row_length: tokens of a row.
        window: documents that are sorted together.
        generator: exchanges rows: best fit puts the long documents of a window first, and a batch should not be all
            long or all short. None leaves them.
        far: exchange all rows, and not only those of a window.

    Returns:
        The rows, every document once.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    row_of = np.empty(len(lengths), dtype=np.int64)
    placing = np.empty(len(lengths), dtype=np.int64)
    num_rows = 0
    for start in range(0, len(lengths), window):
        block = lengths[start : start + window]
        open_rows: list[tuple[int, int]] = []  # (tokens left, row), sorted
        rows_of_block = 0
        placed = [0] * len(block)
        sizes = block.tolist()
        placing[start : start + window] = start + np.argsort(-block, kind="stable")
        for index in (placing[start : start + window] - start).tolist():
            size = sizes[index]
            member = bisect_left(open_rows, (size, -1))
            if member < len(open_rows):
                space, row = open_rows.pop(member)
            else:
                space, row = row_length, rows_of_block
                rows_of_block += 1
            placed[index] = row
            if space > size:
                insort(open_rows, (space - size, row))
        names = np.arange(rows_of_block) if far or generator is None else generator.permutation(rows_of_block)
        row_of[start : start + window] = num_rows + names[placed]
        num_rows += rows_of_block
    if far and generator is not None:
        row_of = np.argsort(generator.permutation(num_rows))[row_of]
    starts = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=num_rows))]).astype(np.int64)
    return Rows(placing[np.argsort(row_of[placing], kind="stable")], starts)


def pack_row(documents: Sequence[Sequence[Sample]], row_length: int, pad_id: int) -> PackedRow:
    """Lay documents out in one row.

    Args:
        documents: the samples of each; together not longer than ``row_length``.
        row_length: S.
        pad_id: the id after the last document.

    Returns:
        The row.

    Raises:
        ValueError: if samples of one document differ in what they share, or the row is too short.
    """
    columns = {
        name: np.full(row_length, pad_id if padding is None else padding, dtype=np.int64)
        for name, padding in TOKEN_FIELDS.items()
    }
    images: list[ImageRef] = []
    image_lengths: list[int] = []
    boxes: list[BoxTarget] = []
    masks: list[MaskTarget] = []
    regions: list[QuestionRegion] = []
    position = 0
    for number, samples in enumerate(documents):
        first, images_before = samples[0], len(images)
        images += first.images
        image_lengths += first.image_lengths
        prefix = first.images_end if len(samples) > 1 else len(first.tokens)
        pieces = [(first, 0, prefix, 0)]
        pieces += [(sample, prefix, len(sample.tokens), branch) for branch, sample in enumerate(samples, start=1)]
        for sample, start, stop, branch in pieces:
            # [Contract] a branch continues exactly this prefix: otherwise a question would be shown another picture.
            if branch > 1 and (
                (sample.start, sample.images) != (first.start, first.images)
                or not np.array_equal(sample.tokens[:prefix], first.tokens[:prefix])
            ):
                raise ValueError(f"{sample.name} does not begin like {first.name}")
            end = position + stop - start
            if end > row_length:
                raise ValueError(f"{sample.name} does not fit into a row of {row_length} tokens")
            values = {
                "tokens": sample.tokens[start:stop],
                "targets": sample.targets[start:stop],
                "input_pos": sample.start + np.arange(start, stop),
                "document": number,
                "branch": branch,
                "after_prompt_prefix": sample.start > 0,
            }
            for name, value in values.items():
                columns[name][position:end] = value
            # Targets and regions lie behind what is shared: each in exactly one of the pieces.
            for targets, found in ((sample.boxes, boxes), (sample.masks, masks), (sample.regions, regions)):
                found += [
                    replace(one, position=one.position - start + position, image=one.image + images_before)
                    for one in targets
                    if start <= one.position < stop
                ]
            position = end
    return PackedRow(
        **columns,
        images=tuple(images),
        image_lengths=tuple(image_lengths),
        boxes=tuple(boxes),
        masks=tuple(masks),
        regions=tuple(regions),
    )


def _first_target(sample: Sample) -> int:
    return int(np.argmax(sample.targets != IGNORE_INDEX))
