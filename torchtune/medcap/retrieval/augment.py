"""Query rows -> the same rows with the nearest candidates of an index as examples."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medcap.data.images.reader import ImageReader
from medcap.data.images.row_entry import image_entry
from medcap.data.row_examples import EXAMPLE_KEYS, FLAT_KEY, read_example_row, without_examples
from medcap.data.row_layouts import CONVERSATION_KEYS, FOLDER_IN_META, IMAGE_FIELDS
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError
from medcap.files import write_text
from medcap.retrieval.candidates import Candidate, Failure, check_plain_image, image_folder, moved_mask, text_of
from medcap.retrieval.index import Index, relative_name
from medcap.retrieval.neighbours import FaissNeighbours, MatrixNeighbours, import_faiss
from medcap.retrieval.tower import EncodedImages, RetrievalTower

FAISS_FROM = 20_000  # candidates; fewer are searched faster without clusters
_SPARE = 8  # candidates beyond those wanted, for the query image itself
_SAME = 0.999  # cosine of pictures that may be the same, with features computed at two times
_PATH_KEYS = ("image", "images", "target_mask", "mask", "masks", "regions", *EXAMPLE_KEYS)
_PATH_TAGS = re.compile(r"(<(mask|region)>)([^<>]+)(</\2>)")


@dataclass(frozen=True)
class Choice:
    """How examples are chosen.

    Attributes:
        top_k: examples of a row.
        exclude_patient: leave out the candidates of the query's patient.
        same: keys of a row whose values a candidate must share, such as the organ.
        patient_key: key of a row that names the patient.
        faiss: search a large index by faiss, which may miss some of the nearest.
    """

    top_k: int = 3
    exclude_patient: bool = False
    same: tuple[str, ...] = ()
    patient_key: str = "patient"
    faiss: bool = False


@dataclass
class Augmented:
    """What was written.

    Attributes:
        rows: rows of the file.
        with_examples: rows that got examples.
        fewer: rows that got fewer than were wanted.
        failures: rows that got none, and why.
        outside: folders outside the output's own that its paths lead to.
    """

    rows: int = 0
    with_examples: int = 0
    fewer: int = 0
    failures: list[Failure] = field(default_factory=list)
    outside: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Query:
    name: str
    row: dict[str, Any]
    image: Path
    patient: str | None
    same: dict[str, str | None]


def augment(
    source: Path,
    index: Index,
    tower: RetrievalTower,
    out: Path,
    reader: ImageReader,
    choice: Choice,
    batch_size: int,
) -> Augmented:
    """Write rows with examples.

    Args:
        source: rows with a query image each; examples that they have are replaced.
        index: where examples come from.
        tower: the tower that made it.
        out: a ``.json`` or ``.jsonl`` file to write, with every row of ``source``.
        reader: finds and opens the query images.
        choice: how examples are chosen.
        batch_size: images that are encoded together.

    Returns:
        What was written. A row whose image cannot be read is written as it was and is among the failures.

    Raises:
        UserError: if the tower is not the index's, a patient is not known, or a file cannot be read or written.
    """
    check_tower(index, tower)
    if choice.exclude_patient and any(candidate.patient is None for candidate in index.candidates):
        raise UserError(
            f"--exclude-patient: index {index.folder} has candidates without a patient: build it from rows with"
            f" '{choice.patient_key}', or name the key there by --patient-key"
        )
    for key in choice.same:
        if not any(key in candidate.kept for candidate in index.candidates):
            raise UserError(f"--same {key}: index {index.folder} does not hold this key: build it with --keep {key}")
    if choice.faiss:
        import_faiss()  # says before any work that it is missing
    report = Augmented()
    rows, queries = _read_queries(source, reader, choice, report)
    chooser = _Chooser(index, choice, reader)
    writer = _RowWriter(source, out, reader, report.outside)
    wanted = list(queries.items())
    images = [query.image for query in queries.values()]
    encoded = tower.encode(images, reader, batch_size, "queries") if images else EncodedImages(np.zeros((0, 1)))
    usable = [number for number in range(len(wanted)) if number not in encoded.failures]
    report.failures += [Failure(wanted[number][1].name, failure.reason) for number, failure in encoded.failures.items()]
    features = encoded.values[usable]  # [q, d]
    finished: dict[int, Any] = {}
    with tqdm(total=len(usable), desc="neighbours", unit=" rows", delay=1, mininterval=1) as bar:
        for number, feature, near in zip(usable, features, chooser.shortlists(features), strict=True):
            position, query = wanted[number]
            chosen = chooser.examples(query, feature, near)
            if chosen:
                # The names of examples are those from the output's folder already.
                examples = [writer.example(candidate) for candidate in chosen]
                finished[position] = writer.query(query.row, query.image) | {"icl_examples": examples}
            else:
                report.failures.append(Failure(query.name, "no candidate is left for it"))
            report.with_examples += bool(chosen)
            report.fewer += 0 < len(chosen) < choice.top_k
            bar.update()
    write_rows(out, [finished.get(number) or writer.moved(row) for number, row in enumerate(rows)])
    report.rows = len(rows)
    return report


def check_tower(index: Index, tower: RetrievalTower) -> None:
    """See that a tower made an index.

    Raises:
        UserError: if it did not.
    """
    if tower.facts["fingerprint"] != index.tower.get("fingerprint"):
        raise UserError(
            f"index {index.folder} was made by {index.tower.get('name')} with other weights or another preprocessing"
            f" than {tower.name}: name that tower by --tower, or build the index again"
        )


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write rows as JSON or JSONL, by the suffix."""
    encoded = [json.dumps(row, ensure_ascii=False) for row in rows]
    if path.suffix == ".jsonl":
        write_text(path, "".join(f"{row}\n" for row in encoded))
    else:
        write_text(path, "[\n" + ",\n".join(encoded) + "\n]\n")


def _read_queries(
    source: Path, reader: ImageReader, choice: Choice, report: Augmented
) -> tuple[list[Any], dict[int, _Query]]:
    """Read the rows, and by its number each one whose image is there."""
    rows, queries = [], {}
    for index, row in read_rows(source):
        name = f"{source}, row {index}"
        rows.append(row)
        try:
            query = _query(name, row, reader, choice)
        except UserError as error:
            report.failures.append(Failure(name, str(error)))
            continue
        if choice.exclude_patient and query.patient is None:
            raise UserError(f"--exclude-patient: {name} has no '{choice.patient_key}' (--patient-key names the key)")
        queries[index] = query
    return rows, queries


def _query(name: str, row: Any, reader: ImageReader, choice: Choice) -> _Query:
    if not isinstance(row, Mapping):
        raise UserError(f"a row must be an object, not {type(row).__name__}")
    read = read_example_row(row)
    if read.image is None or isinstance(read.image, list):
        raise UserError("'image' must be one image")
    path, keys = image_entry(read.image, "image")
    check_plain_image(row, keys)
    own = without_examples(row) | {"image": read.image}
    if read.mask is not None and "masks" not in own:
        own.pop("mask", None)
        own["target_mask"] = read.mask
    masks = own.get("masks")
    if isinstance(masks, list) and len(masks) > 1:
        raise UserError(f"it has {len(masks)} masks, but an answer by example is one: write a row for each")
    if masks == []:  # what the question asks for is not there
        del own["masks"]
        own["target_mask"] = {"mask": None}
    same = {key: text_of(row, key) for key in choice.same}
    return _Query(name, own, reader.resolve(path, image_folder(row)), text_of(row, choice.patient_key), same)


class _Chooser:
    """Chooses candidates for one query after the other."""

    def __init__(self, index: Index, choice: Choice, reader: ImageReader) -> None:
        self._index, self._choice = index, choice
        embeddings = index.embeddings
        self._exact = MatrixNeighbours(embeddings)
        self._fast = FaissNeighbours(embeddings) if choice.faiss and len(embeddings) >= FAISS_FROM else self._exact
        self._reader = reader
        self._digests: dict[Path, bytes | None] = {}

    def shortlists(self, features: np.ndarray) -> Iterator[np.ndarray]:
        """Yield some candidates for each query of ``[q, d]``, the nearest first; enough for most of them."""
        return self._fast.nearest(features, self._choice.top_k + _SPARE)

    def examples(self, query: _Query, feature: np.ndarray, near: np.ndarray) -> list[Candidate]:
        """Return the nearest candidates that are not the query itself, best first; ``near`` are those to begin with."""
        candidates = self._index.candidates
        while True:
            allowed = (candidates[number] for number in near.tolist() if self._allow(number, query, feature))
            chosen = list(islice(allowed, self._choice.top_k))
            if len(chosen) == self._choice.top_k or len(near) == len(candidates):
                return chosen
            near = next(self._exact.nearest(feature[None], 4 * max(len(near), self._choice.top_k)))

    def _allow(self, number: int, query: _Query, feature: np.ndarray) -> bool:
        candidate = self._index.candidates[number]
        if self._choice.exclude_patient and candidate.patient == query.patient:
            return False
        if candidate.image == query.image or any(candidate.kept.get(key) != value for key, value in query.same.items()):
            return False
        # Only what the tower sees as the same is worth a comparison of pixels.
        if float(self._index.embeddings[number] @ feature) < _SAME:
            return True
        own = self._digest(query.image)
        return own is None or own != self._digest(candidate.image)

    def _digest(self, path: Path) -> bytes | None:
        """Return the sha256 of a picture's size and pixels; None if it cannot be read."""
        if path not in self._digests:
            try:
                picture = self._reader.open(path)
                self._digests[path] = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()
            except UserError:
                self._digests[path] = None
        return self._digests[path]


class _RowWriter:
    """Names files so that they are found from where the output is."""

    def __init__(self, source: Path, out: Path, reader: ImageReader, outside: set[str]) -> None:
        self._folder, self._reader, self._outside = out.parent, reader, outside
        self._stays = source.resolve().parent == out.resolve().parent

    def example(self, candidate: Candidate) -> dict[str, Any]:
        """Return a candidate as ``icl_examples`` holds it."""
        return {
            "image": self._name(candidate.image),
            "mask": moved_mask(candidate.mask, lambda it: self._name(Path(it))),
        }

    def query(self, row: dict[str, Any], image: Path) -> dict[str, Any]:
        """Return a row as :meth:`moved` does, and without the folder of its image in ``meta``: examples have others."""
        changed = self.moved(row)
        if image_folder(row) is None:
            return changed
        meta, own = FOLDER_IN_META.sub("", row["meta"]).strip("; "), row["image"]
        changed = {
            **changed,
            "image": {**own, "image": self._name(image)} if isinstance(own, Mapping) else self._name(image),
        }
        del changed["meta"]
        return changed | ({"meta": meta} if meta else {})

    def moved(self, row: Any) -> Any:
        """Return a row whose own files are named from the output's folder."""
        if self._stays or not isinstance(row, Mapping):
            return row
        changed = dict(row)
        # The folder of these is in 'meta'.
        stay = () if image_folder(row) is None else IMAGE_FIELDS
        for key, value in row.items():
            if key in stay:
                continue
            if key in _PATH_KEYS or FLAT_KEY.fullmatch(str(key)):
                changed[key] = self._entry(value)
            elif key in CONVERSATION_KEYS and isinstance(value, list):
                changed[key] = [self._turn(turn) for turn in value]
        return changed

    def _entry(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._entry(part) for part in value]
        if isinstance(value, str):
            return self._found(value)
        if isinstance(value, Mapping):
            return {
                key: self._found(part) if key in ("image", "mask") and isinstance(part, str) else part
                for key, part in value.items()
            }
        return value

    def _turn(self, turn: Any) -> Any:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
            return turn
        return {**turn, "value": _PATH_TAGS.sub(lambda it: f"{it[1]}{self._found(it[3])}{it[4]}", turn["value"])}

    def _found(self, name: str) -> str:
        try:
            return self._name(self._reader.resolve(name))
        except UserError:
            return name  # it is not there: reading the row says so

    def _name(self, path: Path) -> str:
        name = relative_name(path, self._folder)
        if Path(name).is_absolute():
            self._outside.add(str(path.parent))
        return name
