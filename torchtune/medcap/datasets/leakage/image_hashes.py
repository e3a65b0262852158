"""Perceptual and exact hashes of images, made by several processes at once.

This module is imported by every worker process: it needs neither torch nor a model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image

from medcap.data.images.reader import ImageReader
from medcap.data.images.roots import LimitKeys
from medcap.datasets.leakage.image_sources import ImageFile
from medcap.errors import UserError, is_of_the_machine
from medcap.workers import batched, num_processors, ordered_map

SIDE, FINE_SIDE = 8, 16  # 64 and 256 bits
FLAT_DEVIATION = 2.0  # of 255 grey levels
_BATCH = 32
_FEW = 128  # images that are not worth the start of processes


@dataclass(frozen=True)
class HashedImage:
    """What is kept of an image.

    Attributes:
        name: its path.
        bits: 64-bit perceptual hash.
        fine: [4] uint64: the 256-bit perceptual hash, as bytes.
        file: SHA-256 of the file's bytes; of a folder, of the hashes of its files.
        pixels: SHA-256 of size and 8-bit RGB pixels.
        flat: whether it is of nearly one colour, so that the perceptual hashes are those of noise.
    """

    name: str
    bits: int
    fine: bytes
    file: bytes
    pixels: bytes
    flat: bool


def hash_image(path: str | Path) -> HashedImage:
    """Hash one image file.

    Args:
        path: a file of a format that ``ImageReader`` opens, or a folder with one DICOM series.

    Returns:
        Its hashes. The perceptual ones are ImageHash's ``phash`` (signs of the lowest frequencies of the cosine
        transform against their median), of the upright 8-bit picture.

    Raises:
        UserError: if the image is missing, too large, of another format or damaged.
    """
    import imagehash

    picture = ImageReader([], keys=LimitKeys(None, None)).open(path)
    grey = picture.convert("L")
    small = np.asarray(grey.resize((64, 64), Image.Resampling.BOX), dtype=np.float64)
    return HashedImage(
        name=str(path),
        bits=int.from_bytes(np.packbits(imagehash.phash(grey, SIDE).hash).tobytes()),
        fine=np.packbits(imagehash.phash(grey, FINE_SIDE).hash).tobytes(),
        file=_digest(Path(path)),
        pixels=hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest(),
        flat=bool(small.std() < FLAT_DEVIATION),
    )


def _digest(path: Path) -> bytes:
    if path.is_dir():
        # Whatever its files are called: a series may have been renamed.
        files = sorted(_digest(file) for file in path.iterdir() if file.is_file())
        return hashlib.sha256(b"".join(files)).digest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def hash_images(images: Iterable[ImageFile], processes: int | None = None) -> Iterator[HashedImage | ImageFile]:
    """Hash images in several processes, reading only so far ahead as keeps them busy.

    Args:
        images: images from ``list_images``.
        processes: how many; by default one for each processor that this program may use. Few images are hashed by
            this process.

    Yields:
        For each image, in order, its hashes, or the image with a ``problem`` where it cannot be read.

    Raises:
        UserError: if a process is killed.
    """
    images = iter(images)
    first = list(islice(images, _FEW))
    processes = processes or num_processors()
    if processes == 1 or len(first) < _FEW:
        yield from map(_hash_or_problem, chain(first, images))
        return
    for hashed in ordered_map(_hash_or_problem, batched(chain(first, images), _BATCH), processes, _stop_at_crash):
        yield from hashed


def _stop_at_crash(image: ImageFile) -> HashedImage | ImageFile:
    raise UserError(f"a process that hashes images was killed by {image.name} (memory?): set a smaller --processes")


def _hash_or_problem(image: ImageFile) -> HashedImage | ImageFile:
    if image.problem is not None:
        return image
    try:
        return hash_image(image.name)
    except UserError as error:
        return ImageFile(image.name, str(error))
    except Exception as error:  # a decoder may raise anything; one file must not end a run over a million
        if is_of_the_machine(error):
            raise
        return ImageFile(image.name, f"image {image.name} cannot be hashed: {type(error).__name__}: {error}")
