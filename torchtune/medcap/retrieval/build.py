"""Rows with masks -> an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcap.data.images.reader import ImageReader
from medcap.probe.features import BATCH_SIZE
from medcap.retrieval.candidates import Candidate, Failure, read_candidates
from medcap.retrieval.index import write_index
from medcap.retrieval.tower import RetrievalTower


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

    Returns:
        What was built. An image that cannot be read is left out, and named in the failures.

    Raises:
        UserError: if no candidate can be used, or a file cannot be read or written.
    """
    candidates, failures = read_candidates(source, reader, patient_key, keep)
    images = list(dict.fromkeys(candidate.image for candidate in candidates))
    encoded = tower.encode(images, reader, batch_size, "candidates")
    failures = [*failures, *encoded.failures.values()]
    row_of = {path: number for number, path in enumerate(images) if number not in encoded.failures}
    kept: list[Candidate] = [candidate for candidate in candidates if candidate.image in row_of]
    embeddings = encoded.values[np.array([row_of[candidate.image] for candidate in kept])]  # [n, d]
    write_index(folder, kept, embeddings, tower.facts, failures)
    return BuiltIndex(len(kept), len(row_of), failures)
