"""Test images that are in the training set, found by perceptual hashes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from medcap.datasets.leakage.image_hashes import HashedImage
from medcap.datasets.leakage.image_sources import ImageFile

DISTANCE = 8
FINE_FACTOR = 6
KINDS = ("same file", "same pixels", "look alike")
MOST_KEPT = 10  # training images kept for a test image, the nearest
MOST_LISTED = 1_000  # unreadable images whose reasons are kept
_CELLS = 1 << 20  # distances held at once
_BLOCK, _WIDTH = 1 << 12, 1 << 14  # training and test images compared at once, at most


@dataclass(frozen=True, order=True)
class Leak:
    """A test image and a training image that show the same.

    Attributes:
        kind: place in ``KINDS``.
        distance: bits of 64 in which the coarse hashes differ.
        fine_distance: bits of 256 in which the fine hashes differ.
        test: path of the test image.
        train: path of the training image.
    """

    kind: int
    distance: int
    fine_distance: int
    test: str
    train: str


@dataclass
class ImageSet:
    """What was seen of one side.

    Attributes:
        source: the data file or folder.
        images: how many could be read.
        unreadable: how many could not.
        problems: names and reasons of the first of these.
        flat: how many are of nearly one colour and were not compared.
        flat_names: the first of these.
    """

    source: str
    images: int = 0
    unreadable: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    flat: int = 0
    flat_names: list[str] = field(default_factory=list)

    def usable(self, hashed: Iterable[HashedImage | ImageFile]) -> Iterator[HashedImage]:
        """Count images, and pass on those that can be compared.

        Args:
            hashed: hashes from ``hash_images``.

        Yields:
            The images that could be read and are not flat.
        """
        for image in hashed:
            if isinstance(image, ImageFile):
                self.unreadable += 1
                if len(self.problems) < MOST_LISTED:
                    self.problems.append((image.name, image.problem or ""))
                continue
            self.images += 1
            if not image.flat:
                yield image
                continue
            self.flat += 1
            if len(self.flat_names) < MOST_LISTED:
                self.flat_names.append(image.name)


@dataclass
class Leakage:
    """Which test images are in the training set.

    Attributes:
        leaks: the nearest training images of each test image that has any, at most ``MOST_KEPT``; by kind and distance.
        num_test: test images that have any.
        num_pairs: all pairs, those not kept included.
        num_coarse: pairs within the coarse distance that the fine hash distinguished.
    """

    leaks: list[Leak]
    num_test: int
    num_pairs: int
    num_coarse: int


def find_leaks(train: Iterable[HashedImage], test: Iterable[HashedImage], distance: int = DISTANCE) -> Leakage:
    """Compare every test image with every training image.

    Two images count as the same when at most ``distance`` of their 64 hash bits differ and at most six times as many
    of their 256 bits. The coarse hash alone does not do: medical images of one kind look alike. Measured on 82 chest
    radiographs, 4 CT slices and 6 endoscopy frames (4,186 pairs of different images, and each image changed):

    ===================================  ================  ==================
    pair                                 bits of 64        bits of 256
    ===================================  ================  ==================
    different images, nearest            6, 8, 10, 10 ...  68, 74, 80 ...
    JPEG quality 75, resized, both       at most 2         at most 8
    JPEG quality 10                      at most 8         at most 30
    brightness, contrast, gamma          at most 8         at most 24
    1 % cropped off each side            at most 6         at most 34
    turned by 1 degree                   at most 8         at most 36
    2 % cropped off each side            median 4, max 12  median 38, max 62
    3 % cropped off each side            median 8, max 18  median 56, max 92
    ===================================  ================  ==================

    So 8 and 48 find every copy of the first five kinds and most of the sixth, well below the nearest different
    images (74 bits of 256 among those within 8 of 64). Larger crops and turns, padding, mirroring and inversion are
    beyond these hashes. Images of one patient, such as neighbouring slices, may be found too: a pair is a reason to
    look.

    Args:
        train: hashes of the training images, read once, a block at a time.
        test: hashes of the test images, all in memory (about 100 bytes each besides their names).
        distance: 0..64.

    Returns:
        The pairs.
    """
    test = list(test)
    nearest: dict[int, list[Leak]] = {}
    bits = np.array([image.bits for image in test], dtype=np.uint64)  # [t]
    fine = _fine(test)  # [t, 4]
    num_pairs = num_coarse = 0
    for block in _blocks(train, min(_BLOCK, max(_CELLS // _WIDTH, _CELLS // max(1, len(test))))):
        train_bits, train_fine = np.array([image.bits for image in block], dtype=np.uint64), _fine(block)
        for start in range(0, len(test), _WIDTH):
            part = slice(start, start + _WIDTH)
            distances = np.bitwise_count(train_bits[:, None] ^ bits[None, part])  # [b, t]
            left, right = np.nonzero(distances <= distance)
            fine_distances = np.bitwise_count(train_fine[left] ^ fine[part][right]).sum(axis=1)  # [candidates]
            near = np.flatnonzero(fine_distances <= FINE_FACTOR * distance)
            num_pairs += len(near)
            num_coarse += len(left) - len(near)
            for position in near:
                image, other = test[start + right[position]], block[left[position]]
                leak = Leak(
                    _kind(image, other),
                    int(distances[left[position], right[position]]),
                    int(fine_distances[position]),
                    image.name,
                    other.name,
                )
                _keep(nearest.setdefault(start + int(right[position]), []), leak)
    leaks = sorted(leak for kept in nearest.values() for leak in sorted(kept)[:MOST_KEPT])
    return Leakage(leaks, len(nearest), num_pairs, num_coarse)


def _fine(images: list[HashedImage]) -> np.ndarray:
    return np.frombuffer(b"".join(image.fine for image in images), dtype=np.uint64).reshape(-1, 4)


def _blocks(images: Iterable[HashedImage], size: int) -> Iterator[list[HashedImage]]:
    block: list[HashedImage] = []
    for image in images:
        block.append(image)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def _kind(test: HashedImage, train: HashedImage) -> int:
    if test.file == train.file:
        return 0
    return 1 if test.pixels == train.pixels else 2


def _keep(kept: list[Leak], leak: Leak) -> None:
    kept.append(leak)
    if len(kept) > 8 * MOST_KEPT:
        kept.sort()
        del kept[MOST_KEPT:]
