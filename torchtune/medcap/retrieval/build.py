"""Rows with masks -> an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.regions.draw import draw_region
from medcap.data.regions.region import region_from_json
from medcap.errors import UserError
from medcap.probe.features import BATCH_SIZE
from medcap.retrieval.candidates import Candidate, Failure, read_candidates
from medcap.retrieval.index import check_index_folder, write_index
from medcap.retrieval.kept_features import drop_kept, encode_and_keep
from medcap.retrieval.tower import RetrievalTower
from medcap.threads import reading_threads
from medcap.workers import batched

_MAX_THREADS = 16
_CHUNK = 1024  # masks that wait for a thread at once


@dataclass(frozen=True)
class BuiltIndex:
    """What was built.

    Attributes:
        candidates: images with masks in the index.
        images: different images among them.
        failures: rows and images that are left out.
    """

    candidates: int
    images: int
    failures: Sequence[Failure]


def build_index(
    source: Path,
    tower: RetrievalTower,
    folder: Path,
    reader: ImageReader,
    patient_key: str = "patient",
    keep: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
) -> BuiltIndex:
    """Build an index from a file of rows.

    Args:
        source: rows with images and masks, see :func:`medcap.retrieval.candidates.read_candidates`.
        tower: encodes the images.
        folder: folder to write.
        reader: finds and opens the images.
        patient_key: key of a row that names the patient.
        keep: other keys of a row that the index keeps for ``Choice.same``.
        batch_size: images that are encoded together.

    Features are kept in the folder until the index is written: a build that was killed goes on from them.

    Returns:
        What was built. An image that cannot be read, and a mask that cannot be drawn on its image, is left out and
        named in the failures.

    Raises:
        UserError: if no candidate can be used, no row has a key to keep, the folder holds other files, or a file cannot
            be read or written.
    """
    check_index_folder(folder)
    candidates, failures = read_candidates(source, reader, patient_key, keep)
    for key in keep:
        if not any(key in candidate.kept for candidate in candidates):
            raise UserError(f"--keep {key}: no row of {source} has this key")
    candidates, bad = _with_good_masks(candidates, reader)
    failures += bad
    images = list(dict.fromkeys(candidate.image for candidate in candidates))
    encoded = encode_and_keep(images, tower, folder, reader, batch_size)
    failures = [*failures, *encoded.failures.values()]
    row_of = {path: number for number, path in enumerate(images) if number not in encoded.failures}
    kept: list[Candidate] = [candidate for candidate in candidates if candidate.image in row_of]
    embeddings = encoded.values[np.array([row_of[candidate.image] for candidate in kept])]  # [n, d]
    write_index(folder, kept, embeddings, tower.facts, failures)
    drop_kept(folder)
    return BuiltIndex(len(kept), len(row_of), failures)


def _with_good_masks(candidates: Sequence[Candidate], reader: ImageReader) -> tuple[list[Candidate], list[Failure]]:
    """Draw every mask once: one that does not fit would make each row bad that gets it as an example."""
    good, bad = [], []
    bar = tqdm(total=len(candidates), desc="masks", unit=" masks", delay=1, mininterval=1)
    with bar, reading_threads(_MAX_THREADS) as threads:
        for some in batched(candidates, _CHUNK):
            for candidate, reason in zip(some, threads.map(partial(_problem, reader=reader), some), strict=True):
                if reason is None:
                    good.append(candidate)
                else:
                    bad.append(Failure(f"mask of {candidate.image}", reason))
                bar.update()
    if not good:
        raise UserError(f"no mask can be drawn on its image; the first: {bad[0].name}: {bad[0].reason}")
    return good, bad


def _problem(candidate: Candidate, reader: ImageReader) -> str | None:
    """Return why a mask cannot be drawn; None also where the image cannot be read, which is told later."""
    try:
        size = reader.shown_size(ImageRef(str(candidate.image)))
    except UserError:
        return None
    try:
        draw_region(region_from_json(candidate.mask, "mask"), size, reader)
    except UserError as error:
        return str(error)
    return None
