"""The folder of an index: ``embeddings.npy``, ``metadata.json`` and, written last, ``index.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcap.data.json_text import parse_json
from medcap.errors import UserError
from medcap.files import atomic_file, make_folder, write_json, write_text
from medcap.locks import locked
from medcap.retrieval.candidates import Candidate, Failure, moved_mask

EMBEDDINGS, METADATA, INDEX, FAILURES = "embeddings.npy", "metadata.json", "index.json", "failures.jsonl"
FEATURES_FOLDER = "features"  # of a build that is not finished
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Index:
    """An index that was read.

    Attributes:
        folder: its folder.
        candidates: images with masks.
        embeddings: ``[n, d]`` float32 of length 1, a row each, read from disk as it is used.
        tower: what it says of the tower that made it, as ``RetrievalTower.facts``.
    """

    folder: Path
    candidates: Sequence[Candidate]
    embeddings: np.ndarray
    tower: Mapping[str, Any]


def check_index_folder(folder: Path) -> None:
    """See that an index may be written into a folder: a new or empty one, or that of an index or of a build.

    Raises:
        UserError: if it holds other files, which the index's could replace.
    """
    if not folder.is_dir() or any((folder / name).exists() for name in (INDEX, FEATURES_FOLDER)):
        return
    if any(entry.name != ".lock" for entry in folder.iterdir()):
        raise UserError(f"--index {folder} holds files that are not of an index: name a new or empty folder")


def write_index(
    folder: Path,
    candidates: Sequence[Candidate],
    embeddings: np.ndarray,
    tower: Mapping[str, Any],
    failures: Sequence[Failure] = (),
) -> None:
    """Write an index so that an interrupted write leaves none that looks complete.

    Args:
        folder: folder, made if it is not there; an index in it is replaced.
        candidates: images with masks.
        embeddings: ``[n, d]`` float32 of length 1, a row each.
        tower: what made them.
        failures: what was left out.

    Raises:
        UserError: if the folder cannot be made.
    """
    make_folder(folder, "--index")
    with locked(folder / ".lock"):
        _write_index(folder, candidates, embeddings, tower, failures)


def _write_index(
    folder: Path,
    candidates: Sequence[Candidate],
    embeddings: np.ndarray,
    tower: Mapping[str, Any],
    failures: Sequence[Failure],
) -> None:
    # An index without its last file is not one: whatever happens from here on, old and new are never mixed.
    (folder / INDEX).unlink(missing_ok=True)
    with atomic_file(folder / EMBEDDINGS) as temporary, temporary.open("wb") as file:
        np.save(file, embeddings)
    write_json(folder / METADATA, [_entry(candidate, folder) for candidate in candidates])
    if failures:
        write_failures(folder / FAILURES, failures)
    else:
        (folder / FAILURES).unlink(missing_ok=True)
    facts = {
        "format_version": FORMAT_VERSION,
        "candidates": len(candidates),
        "images": len({candidate.image for candidate in candidates}),
        "failures": len(failures),
        "dim": int(embeddings.shape[1]),
        "tower": dict(tower),
    }
    write_json(folder / INDEX, facts)


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write what could not be used, a line each."""
    lines = (json.dumps({"name": it.name, "reason": it.reason}, ensure_ascii=False) + "\n" for it in failures)
    write_text(path, "".join(lines))


def read_index(folder: Path) -> Index:
    """Read an index.

    Args:
        folder: its folder.

    Returns:
        The index; the paths of its candidates are absolute.

    Raises:
        UserError: if it is missing, incomplete, or not made by this program.
    """
    remedy = "make it again by medcap retrieve build"
    if not (folder / INDEX).is_file():
        there = "has no" if folder.is_dir() else "does not exist, so it has no"
        raise UserError(f"index {folder} {there} {INDEX}, which is written last: {remedy}")
    try:
        facts = parse_json((folder / INDEX).read_bytes())
        metadata = parse_json((folder / METADATA).read_bytes())
        embeddings = np.load(folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
        if facts["format_version"] > FORMAT_VERSION:
            raise UserError(f"index {folder} has format {facts['format_version']}: update medcap, or {remedy}")
        counts = (facts["candidates"], facts["dim"])
        tower = facts["tower"]
        candidates = [_candidate(entry, folder) for entry in metadata]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"index {folder} cannot be read ({type(error).__name__}: {error}): {remedy}") from error
    if embeddings.dtype != np.float32 or embeddings.shape != counts or len(candidates) != counts[0]:
        raise UserError(f"index {folder} holds files of different builds: {remedy}")
    return Index(folder, candidates, embeddings, tower)


def relative_name(path: Path, folder: Path) -> str:
    """Return how a file in a folder calls a path: relative where it is below the folder, else absolute."""
    home = folder.resolve()
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)


def _entry(candidate: Candidate, folder: Path) -> dict[str, Any]:
    mask = moved_mask(candidate.mask, lambda name: relative_name(Path(name), folder))
    entry: dict[str, Any] = {"image": relative_name(candidate.image, folder), "mask": mask}
    if candidate.patient is not None:
        entry["patient"] = candidate.patient
    return entry | ({"keys": dict(candidate.kept)} if candidate.kept else {})


def _candidate(entry: Mapping[str, Any], folder: Path) -> Candidate:
    home = folder.resolve()
    mask = moved_mask(entry["mask"], lambda name: str(home / name))
    return Candidate(home / entry["image"], mask, entry.get("patient"), entry.get("keys", {}))
