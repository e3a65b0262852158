"""Labelled images from the layouts that people have: tables, a folder for each class, phantoms."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medcap.data.images.reader import ImageReader
from medcap.data.images.roots import LimitKeys
from medcap.datasets.conversion.listing import sorted_images
from medcap.datasets.phantoms.records import OPTIONS
from medcap.datasets.published.fields import field_text
from medcap.datasets.rows.delimited import delimiter_of, read_heading, read_records
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError

CLASS_TARGET = "class"
PRESENT, ABSENT = "yes", "no"
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
_KEYS = LimitKeys("--image-root", None)
_PHANTOM_MARKER = "phantom.json"


@dataclass(frozen=True)
class Example:
    """One labelled image.

    Attributes:
        image: image as its source names it.
        path: where it is; None where it cannot be found.
        labels: target -> label; a target is left out where the source has no label of it.
        several: column -> labels, where a column holds any number of them; :func:`spread` makes targets of these.
        group: what must not stand on both sides of a split: a patient, or the image itself.
        problem: why there is no such file.
    """

    image: str
    path: Path | None
    labels: Mapping[str, str]
    group: str
    several: Mapping[str, Sequence[str]] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class TableColumns:
    """Which columns of a table are read.

    Attributes:
        image: its path.
        labels: one target each.
        group: the patient; None where every image stands for itself.
        separator: between the labels of one cell; an empty cell then has none of them.
    """

    image: str = "image"
    labels: Sequence[str] = ("label",)
    group: str | None = None
    separator: str | None = None


def read_examples(source: str | Path, columns: TableColumns, image_roots: Sequence[str | Path] = ()) -> list[Example]:
    """Read labelled images; the images themselves are not opened.

    Args:
        source: a CSV, TSV, JSON or JSONL file; a folder with a folder for each class; or a folder that
            ``medcap prepare phantom`` wrote, whose targets are all of its attributes.
        columns: table columns. A list in a JSON row is several labels, as with ``separator``.
        image_roots: folders that images of a table may be in, beside its own and the working one.

    Returns:
        The images in the order of the source.

    Raises:
        UserError: if the source is missing, damaged, or holds no labelled image.
    """
    path = Path(source)
    if path.is_dir():
        examples = _phantoms(path) if (path / _PHANTOM_MARKER).is_file() else _class_folders(path)
    elif path.is_file() and path.suffix.lower() in _TABLES:
        examples = _table(path, columns, image_roots)
    elif path.exists():
        raise UserError(f"{path}: give a file that ends in {', '.join(_TABLES)}, or a folder with a folder per class")
    else:
        raise UserError(f"{path} does not exist: give a table of labels or a folder of class folders")
    if not any(example.labels or any(example.several.values()) for example in examples):
        raise UserError(f"{path} holds no labelled image")
    return examples


def targets_of(examples: Sequence[Example]) -> list[str]:
    """Every target that occurs, in the order of its first label."""
    return list(dict.fromkeys(target for example in examples for target in example.labels))


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 over images' names, labels and groups, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        group = None if example.path is None or example.group == str(example.path) else example.group
        row = [example.image, sorted(example.labels.items()), sorted(example.several.items()), group]
        digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def spread(*parts: Sequence[Example]) -> tuple[list[Example], ...]:
    """Make each label of a column with several labels a target of its own, ``column=label``, yes or no.

    Args:
        parts: images whose targets are to be the same.

    Returns:
        The same parts; an image without anything in such a column stays without these targets.
    """
    known: dict[str, dict[str, None]] = {}
    for example in (example for part in parts for example in part):
        for column, labels in example.several.items():
            known.setdefault(column, {}).update(dict.fromkeys(labels))

    def one(example: Example) -> Example:
        asked = {
            f"{column}={label}": PRESENT if label in labels else ABSENT
            for column, labels in example.several.items()
            for label in known[column]
        }
        return replace(example, labels={**example.labels, **asked}, several={})

    return tuple([one(example) for example in part] for part in parts)


def _phantoms(folder: Path) -> list[Example]:
    columns = TableColumns("image", list(OPTIONS))
    return _table(folder / "records.jsonl", columns, ())


def _class_folders(folder: Path) -> list[Example]:
    reader = ImageReader([folder], keys=_KEYS)
    examples = []
    for name in sorted_images(folder):
        label, _, rest = name.partition("/")
        if not rest:
            raise UserError(f"{folder / name} lies in no class's folder: expected {folder}/CLASS/IMAGE")
        examples.append(_found(reader, name, {CLASS_TARGET: label}))
    if not examples:
        raise UserError(f"{folder} holds no images in class folders: expected {folder}/CLASS/IMAGE")
    return examples


def _table(path: Path, columns: TableColumns, image_roots: Sequence[str | Path]) -> list[Example]:
    reader = ImageReader([path.parent, Path.cwd(), *image_roots], keys=_KEYS)
    examples = []
    for location, row in _rows(path, columns):
        image = row.get(columns.image)
        if not isinstance(image, str) or not image:
            raise UserError(f"{location}: {columns.image} is {image!r}, not the name of an image (--image-column)")
        group = None
        if columns.group is not None:
            group = row.get(columns.group)
            if group is None or group == "":
                raise UserError(f"{location}: {columns.group} is empty, so its group is not known (--group-column)")
        labels, several = _labels(row, columns, location)
        examples.append(_found(reader, image, labels, None if group is None else str(group), several))
    return examples


def _rows(path: Path, columns: TableColumns) -> Iterator[tuple[str, Mapping[str, Any]]]:
    wanted = [columns.image, *columns.labels, *([columns.group] if columns.group else [])]
    if path.suffix.lower() in (".csv", ".tsv"):
        delimiter = delimiter_of(path)
        try:
            heading = read_heading(path, wanted, delimiter)
            for record in read_records(path, heading, delimiter):
                if record.problem is not None:
                    raise UserError(f"{path}, {record.location}: {record.problem}")
                yield f"{path}, line {record.last}", dict(zip(heading, record.fields, strict=True))
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not readable as CSV in UTF-8 ({error.reason})") from error
        return
    seen: set[str] = set()
    for index, row in read_rows(path):
        if not isinstance(row, Mapping):
            raise UserError(f"{path}, row {index}: a row must be an object, not {type(row).__name__}")
        seen.update(row)
        yield f"{path}, row {index}", row
    for column in wanted:
        if column not in seen:
            raise UserError(f"{path} has no column '{column}' (it has: {', '.join(sorted(seen)) or 'nothing'})")


def _labels(
    row: Mapping[str, Any], columns: TableColumns, location: str
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    labels: dict[str, str] = {}
    several: dict[str, tuple[str, ...]] = {}
    for column in columns.labels:
        value = row.get(column)
        if isinstance(value, str) and columns.separator is not None:
            value = [part.strip() for part in value.split(columns.separator) if part.strip()]
        if isinstance(value, list):
            several[column] = tuple(dict.fromkeys(_text(label, location, column) for label in value))
        elif field_text(value):
            labels[column] = _text(value, location, column)
    return labels, several


def _text(value: Any, location: str, column: str) -> str:
    if isinstance(value, bool | int | float | str):
        return str(value)
    raise UserError(f"{location}: {column} is a {type(value).__name__}; a label is a text or a number (--label-column)")


def _found(
    reader: ImageReader,
    image: str,
    labels: Mapping[str, str],
    group: str | None = None,
    several: Mapping[str, Sequence[str]] | None = None,
) -> Example:
    path, problem = None, None
    try:
        path = reader.resolve(image)
    except UserError as error:
        problem = str(error)
    own = image if path is None else str(path)
    return Example(image, path, labels, own if group is None else group, several or {}, problem)
