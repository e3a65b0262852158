"""Features of finished images, kept on disk until an index is written: a build that was killed goes on from them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from medcap.data.images.reader import ImageReader
from medcap.errors import UserError
from medcap.files import atomic_file, make_folder
from medcap.plurals import none_of
from medcap.probe.features import NoneReadable
from medcap.retrieval.candidates import Failure
from medcap.retrieval.index import FEATURES_FOLDER
from medcap.retrieval.tower import EncodedImages, RetrievalTower

PART = 1024  # images whose features are written at once


def encode_and_keep(
    images: list[Path], tower: RetrievalTower, folder: Path, reader: ImageReader, batch_size: int, part: int = PART
) -> EncodedImages:
    """Encode images, and keep the features of each part of them.

    Args:
        images: resolved paths.
        tower: encodes them.
        folder: of the index; the parts are in its ``features``.
        reader: opens the images.
        batch_size: images that are encoded together.
        part: images whose features are written at once.

    Returns:
        As :meth:`RetrievalTower.encode`. Features of an earlier build are taken where tower, images and the times and
        sizes of their files are the same.

    Raises:
        UserError: if no image can be read, or the tower gives numbers that are not finite.
    """
    make_folder(folder / FEATURES_FOLDER, "--index")
    values: list[np.ndarray | None] = []
    counts, failures = [], dict[int, Failure]()
    for start in range(0, len(images), part):
        some = images[start : start + part]
        label = "candidates" if len(images) <= part else f"candidates from {start:,} of {len(images):,}"
        found = _part(some, tower, folder / FEATURES_FOLDER, reader, batch_size, label)
        failures |= {start + number: Failure(str(some[number]), reason) for number, reason in found[1].items()}
        values.append(found[0])
        counts.append(len(some))
    there = [own for own in values if own is not None]
    if not there:
        raise UserError(f"{none_of(len(images), 'candidate')} can be read; the first: {failures[0].reason}")
    dim = there[0].shape[1]
    full = [
        np.zeros((count, dim), np.float32) if own is None else own for own, count in zip(values, counts, strict=True)
    ]
    return EncodedImages(np.concatenate(full), failures)


def drop_kept(folder: Path) -> None:
    """Remove the kept features of an index's folder."""
    shutil.rmtree(folder / FEATURES_FOLDER, ignore_errors=True)


def _part(
    images: list[Path], tower: RetrievalTower, folder: Path, reader: ImageReader, batch_size: int, label: str
) -> tuple[np.ndarray | None, dict[int, str]]:
    """Return the features of some images, None if none can be read, and why images cannot."""
    path = folder / f"{_digest(images, tower.facts['fingerprint'])}.npz"
    kept = _read(path)
    if kept is not None:
        return kept
    try:
        encoded = tower.encode(images, reader, batch_size, label)
    except NoneReadable as error:
        # Not kept: files that are put right are read.
        return None, error.problems
    problems = {number: failure.reason for number, failure in encoded.failures.items()}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, values=encoded.values, numbers=np.array(list(problems), np.int64), reasons=_texts(problems))
    return encoded.values, problems


def _texts(problems: dict[int, str]) -> np.ndarray:
    return np.array(list(problems.values()), dtype=np.str_)


def _read(path: Path) -> tuple[np.ndarray, dict[int, str]] | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            return kept["values"], dict(zip(kept["numbers"].tolist(), kept["reasons"].tolist(), strict=True))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None  # none yet, or cut


def _digest(images: Sequence[Path], fingerprint: Any) -> str:
    digest = hashlib.sha256(str(fingerprint).encode())
    for image in images:
        digest.update(repr((str(image), *_state(image))).encode())
    return digest.hexdigest()[:32]


def _state(image: Path) -> tuple[int, int] | tuple[()]:
    """Return size and time of a file; of a member of a tar file, those of the tar file."""
    try:
        found = os.stat(str(image).split("!/")[0])
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns
