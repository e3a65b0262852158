"""What the readers of official benchmark files share: where the files lie, how they are read, what a row becomes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.data.images.reader import ImageReader
from medcap.datasets.published.fields import field_text, field_words, question_text
from medcap.datasets.rows.delimited import WRONG_COUNT, read_heading, read_records
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError
from medcap.evaluation.tasks.base import BENCHMARK_KEYS, ImageFinder
from medcap.generation.prompt import user_message
from medcap.scoring.question import Question

OPEN, CLOSED = "OPEN", "CLOSED"
NO_ANSWER = "(the file gives no answer)"
DERIVED_TYPES = "the files do not say which questions are closed: those whose answer is yes or no count as closed"
_AGAIN = "the benchmark is not complete without it: download the file again"


@dataclass(frozen=True)
class Found:
    """The files of a benchmark.

    Attributes:
        folder: the benchmark's own; the names in the files are relative to it.
        kind: of the files, a key of what was searched for.
        files: at least one, sorted by name.
        named: whether the user named a single file, which may be a part of the benchmark.
    """

    folder: Path
    kind: str
    files: list[Path]
    named: bool = False

    @property
    def source(self) -> Path:
        """What messages call the benchmark: the file if there is one, else the folder."""
        return self.files[0] if len(self.files) == 1 else self.folder


def find_benchmark(
    source: str | Path, title: str, folders: Sequence[str], kinds: Mapping[str, Sequence[str]], expected: str
) -> Found:
    """Find a benchmark's data files.

    Args:
        source: a folder that holds the benchmark's folder, that folder, or one of its files.
        title: the benchmark's name.
        folders: names that its folder goes by; ``source`` itself is looked into after them.
        kinds: kind of file -> patterns relative to the benchmark's folder; the first that matches is taken.
        expected: what the user should put where.

    Returns:
        The files.

    Raises:
        UserError: if there is nothing, or a named file is of none of the kinds.
    """
    source = Path(source)
    if source.is_file():
        return _named_file(source, title, kinds, expected)
    if not source.is_dir():
        raise UserError(f"dataset_source: {source} does not exist; for {title} it must hold {expected}")
    for folder in [*(source / name for name in folders), source]:
        for kind, patterns in kinds.items():
            for pattern in patterns:
                # An archive packed on a Mac brings a hidden `._name.json` beside each `name.json`.
                files = sorted(path for path in folder.glob(pattern) if path.is_file() and path.name[0] != ".")
                if files:
                    return Found(folder, kind, files)
    raise UserError(f"{title} is not in {source}: it must hold {expected}")


def _named_file(path: Path, title: str, kinds: Mapping[str, Sequence[str]], expected: str) -> Found:
    for kind, patterns in kinds.items():
        for pattern in patterns:
            if path.match(pattern):
                return Found(path.absolute().parents[pattern.count("/")], kind, [path.absolute()], named=True)
    for kind, patterns in kinds.items():
        if any(path.suffix.lower() == Path(pattern).suffix for pattern in patterns):
            return Found(path.absolute().parent, kind, [path.absolute()], named=True)
    raise UserError(f"{path} is not a file of {title}: expected is {expected}")


def image_finder(
    folder: Path, subfolders: Iterable[str], further: Sequence[str | Path] | None = None
) -> tuple[ImageFinder, list[Path]]:
    """What finds a benchmark's images.

    Args:
        folder: the benchmark's own.
        subfolders: names in it that images are looked for in first, as far as they exist.
        further: folders that the user allows beside them.

    Returns:
        The finder, and its folders.
    """
    roots = [folder / name for name in subfolders if (folder / name).is_dir()]
    reader = ImageReader([*roots, folder, *(further or [])], keys=BENCHMARK_KEYS)
    return ImageFinder(reader), list(reader.roots)


def read_json(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read the objects of a JSON or JSONL file.

    Yields:
        Question number from 0 and the object.

    Raises:
        UserError: if the file is damaged, or a row is not an object; the message has the line or the row.
    """
    try:
        for index, value in read_rows(path):
            if not isinstance(value, Mapping):
                raise UserError(f"{path}, row {index}: must be an object, not {type(value).__name__}")
            yield index, value
    except UserError as error:
        raise UserError(f"{error}; {_AGAIN}") from error


def read_csv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV file with a heading, every field as the text that it is.

    Yields:
        Question number from 0 and the fields.

    Raises:
        UserError: if the file is damaged, two columns have one name, or a row has more or fewer fields than the
            heading; the message has the line.
    """
    try:
        heading = read_heading(path)
        for index, record in enumerate(read_records(path, heading)):
            problem = record.problem
            if problem == WRONG_COUNT:
                problem = f"the row does not have the {len(heading)} fields of the heading"
            if problem is not None:
                raise UserError(f"{path}, {record.place}: {problem}; {_AGAIN}")
            yield index, dict(zip(heading, record.fields, strict=True))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a readable CSV file ({error}); {_AGAIN}") from error


def read_fields(path: Path, count: int, layout: str) -> Iterator[tuple[int, list[str]]]:
    """Read a text file whose lines are fields between ``|``.

    Args:
        path: the file, UTF-8, or the Windows code page where it is not UTF-8.
        count: the least number of fields.
        layout: how a line should look.

    Yields:
        Line number from 1 and the fields, stripped. Empty lines are left out.

    Raises:
        UserError: if a line has fewer fields; the message names it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"data file {path} cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < count:
            raise UserError(f"{path}, line {number}: expected {layout}; {_AGAIN}")
        yield number, fields


def require_keys(row: Mapping[str, Any], keys: Sequence[str], path: Path, title: str) -> None:
    """Check by its first row that a file is what it is taken for.

    Raises:
        UserError: if the row lacks one of ``keys``.
    """
    missing = [key for key in keys if key not in row]
    if missing:
        raise UserError(
            f"{path} is not a file of {title}: its first row has no '{missing[0]}' (it has:"
            f" {', '.join(map(str, row)) or 'nothing'}); the task vqa reads other layouts"
        )


def answer_type_of(value: Any) -> str:
    """``OPEN``, ``CLOSED``, or "" for anything else; VQA-RAD's file has ``"CLOSED "`` too."""
    text = field_text(value).upper()
    return text if text in (OPEN, CLOSED) else ""


def yes_no_type(answers: Sequence[str]) -> str:
    """``CLOSED`` where every accepted answer is yes or no, else ``OPEN``."""
    return CLOSED if answers and all(answer.strip(" .").lower() in ("yes", "no") for answer in answers) else OPEN


def official_row(
    name: str,
    question: Any,
    answers: Sequence[Any],
    image: Path | None,
    problem: str | None,
    *,
    options: tuple[str, ...] = (),
    answer_type: str = "",
    **meta: Any,
) -> Question:
    """A benchmark's row, kept whatever is wrong with it.

    Args:
        name: its id.
        question: its words.
        answers: accepted ones; empty ones are left out.
        image: where it lies, or should lie.
        problem: what is wrong with the image.
        options: of a multiple-choice question.
        answer_type: ``OPEN``, ``CLOSED`` or empty.
        meta: further fields; empty ones are left out.

    Returns:
        The row, with a ``problem`` if its image, question or answer is missing.
    """
    text = question_text(question)
    references = [answer for answer in map(field_words, answers) if answer]
    if image is None:
        problem = problem or "the file names no image"
    if not text:
        problem = problem or "the file gives no question"
    if not references:
        problem = problem or "the file gives no answer"
    return Question(
        id=name,
        messages=[user_message(str(image) if image else None, text)],
        references=tuple(references) or (NO_ANSWER,),
        image=image,
        options=options,
        answer_type=answer_type,
        meta={key: field_text(value) for key, value in meta.items() if field_text(value)},
        problem=problem,
    )
