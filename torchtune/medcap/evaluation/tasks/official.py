"""Helpers that the readers of official benchmark files share: finding the files, reading them, building a question."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.view_keys import read_view
from medcap.datasets.published.fields import field_text, field_words, question_text
from medcap.datasets.published.finding import HUB, Found, Layout, find_files
from medcap.datasets.published.question import PublishedQuestion
from medcap.datasets.rows.parquet_rows import ImageStore
from medcap.errors import UserError
from medcap.evaluation.tasks.base import BENCHMARK_KEYS, Benchmark, ImageFinder, LoadOptions, make_benchmark
from medcap.generation.prompt import user_message
from medcap.scoring.question import Question

OPEN, CLOSED = "OPEN", "CLOSED"
NO_ANSWER = "(the file gives no answer)"
DERIVED_TYPES = "the files do not say which questions are closed: those whose answer is yes or no count as closed"


def find_benchmark(source: str | Path, title: str, layout: Layout, expected: str) -> Found:
    """Find a benchmark's data files.

    Args:
        source: a folder that holds the benchmark's folder, that folder, or one of its files.
        title: the benchmark's name.
        layout: its names; ``source`` itself is looked into after its folders.
        expected: what the user should put where.

    Returns:
        The files.

    Raises:
        UserError: if there is nothing, or a named file has none of the kinds.
    """
    source = Path(source)
    if source.is_file():
        return _named_file(source, title, layout.kinds, expected)
    if not source.is_dir():
        raise UserError(f"dataset_source: {source} does not exist; for {title} it must hold {expected}")
    found = find_files(source, (*layout.folders, ""), layout.kinds)
    if found is None:
        raise UserError(f"{title} is not in {source}: it must hold {expected}")
    return found


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
    folder: Path,
    subfolders: Iterable[str],
    further: Sequence[str | Path] | None = None,
    view: Mapping[str, Any] | None = None,
) -> tuple[ImageFinder, list[Path]]:
    """Return what finds a benchmark's images.

    Args:
        folder: the benchmark's own.
        subfolders: names in it that images are looked for in first, as far as they exist.
        further: folders that the user allows besides them.
        view: how the images are looked at; keys as in a row.

    Returns:
        The finder, and its folders.
    """
    roots = [folder / name for name in subfolders if (folder / name).is_dir()]
    reader = ImageReader([*roots, folder, *(further or [])], keys=BENCHMARK_KEYS)
    return ImageFinder(reader, view), list(reader.roots)


def answer_type_of(value: Any) -> str:
    """``OPEN``, ``CLOSED``, or "" for anything else; VQA-RAD's file has ``"CLOSED "`` too."""
    text = field_text(value).upper()
    return text if text in (OPEN, CLOSED) else ""


def yes_no_type(answers: Sequence[str]) -> str:
    """Return ``CLOSED`` where every accepted answer is yes or no, else ``OPEN``."""
    return CLOSED if answers and all(answer.strip(" .").lower() in ("yes", "no") for answer in answers) else OPEN


def official_row(
    question: PublishedQuestion, image: ImageRef | None, problem: str | None, answer_type: str = ""
) -> Question:
    """Return a benchmark's row, kept whatever is wrong with it.

    Args:
        question: what the file says; empty answers and further fields are left out.
        image: image whose path is its place, or its expected place.
        problem: what is wrong with the image.
        answer_type: ``OPEN``, ``CLOSED`` or empty.

    Returns:
        The row, with a ``problem`` if its image, question or answer is missing.
    """
    text = question_text(question.question)
    references = [answer for answer in map(field_words, question.answers) if answer]
    if image is None:
        problem = problem or "the file names no image"
    if not text:
        problem = problem or "the file gives no question"
    if not references:
        problem = problem or "the file gives no answer"
    return Question(
        id=question.id,
        messages=[user_message(image, text)],
        references=tuple(references) or (NO_ANSWER,),
        options=question.options,
        answer_type=answer_type,
        meta={key: field_text(value) for key, value in question.meta.items() if field_text(value)},
        problem=problem,
    )


def row_maker(
    found: Found, layout: Layout, options: LoadOptions, derive: bool = False
) -> tuple[Callable[[PublishedQuestion], Question], list[Path]]:
    """Return what makes rows of a published data set's questions.

    Args:
        found: its files.
        layout: its names.
        options: its ``image_roots`` may hold images too, its ``work_folder`` receives those of the hub's copy.
        derive: whether to derive open and closed from the answers where the file does not, as in the hub's copy always.

    Returns:
        The function, and the folders that the images lie in.

    Raises:
        UserError: if images have to be written and there is no work folder.
    """
    store = find = None
    view = read_view(options.view or {}, prefix="view.")
    if found.kind == HUB:
        if options.work_folder is None:
            raise UserError(
                f"{found.source}: its images lie inside the parquet file and need an output_dir to be written to"
            )
        store = ImageStore(options.work_folder)
        store.folder.mkdir(parents=True, exist_ok=True)
        roots = [store.folder]
    else:
        find, roots = image_finder(found.folder, layout.images, options.image_roots, options.view)

    def make_row(question: PublishedQuestion) -> Question:
        image, problem, name = None, None, field_text(question.image)
        if store is not None:
            image = None if question.content is None else ImageRef(str(store.write(question.content)), view)
            problem = "the parquet file holds no image for it" if image is None else None
        elif find is not None and name:
            image = find.first_of(*(name + suffix for suffix in question.suffixes))
            problem = find.problem
        kind = answer_type_of(question.answer_type)
        if store is not None or derive:
            kind = kind or yes_no_type(list(map(field_words, question.answers)))
        return official_row(question, image, problem, kind)

    return make_row, roots


def published_benchmark(found: Found, rows: list[Question], **others: Any) -> Benchmark:
    """Make a benchmark of files that were found; ``others`` as :func:`make_benchmark` takes them."""
    return make_benchmark(rows, found.source, found.files, found.folder, **others)
