"""Questions of published data sets -> training rows: one question and its first answer each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.example import Example, SkipRecord, Tally, each
from medcap.datasets.conversion.fields import safe_name, words
from medcap.datasets.published.finding import HUB, Found, Layout, find_files
from medcap.datasets.published.question import PublishedQuestion
from medcap.errors import UserError

Reader = Callable[[Found, Tally], Iterator[PublishedQuestion]]


def find_source(converter: Converter, folders: Folders, layout: Layout) -> Found:
    """Find the files of a data set, the hub's copy first, as its images need no other download.

    Raises:
        UserError: if there are none: it names the path and what to download.
    """
    for kind in sorted(layout.kinds, key=lambda kind: kind != HUB):
        found = find_files(Path(folders.data), layout.folders, {kind: layout.kinds[kind]})
        if found is not None:
            return found
    files = [file for kind, patterns in layout.kinds.items() if kind != HUB for file in patterns]
    path = converter.need(folders, *(f"{folder}/{file}" for folder in layout.folders for file in files))
    raise UserError(f"{converter.name}: {path} is not a file: {converter.advice()}")


def image_folders(converter: Converter, folders: Folders, layout: Layout) -> list[str]:
    """Return the folders that a data set's images may be in, at least one; see :meth:`Converter.need_images`."""
    names = [f"{folder}/{name}" for folder in layout.folders for name in layout.images]
    first = converter.need_images(folders, *names)
    others = (os.path.join(folders.data, name) for name in names)
    return [first, *(path for path in others if path != first and os.path.isdir(path))]


def question_examples(
    converter: Converter,
    folders: Folders,
    layout: Layout,
    read: Reader,
    check: Callable[[PublishedQuestion], None] = lambda question: None,
) -> Examples:
    """Find a data set and read its questions.

    Args:
        converter: converter of the data set.
        folders: where it is; ``out`` receives the images of the hub's copy, in ``<name>_images``.
        layout: its names.
        read: its reader.
        check: raises ``SkipRecord`` for a question that is not wanted.

    Returns:
        The reader of the files.

    Raises:
        UserError: in the cases of :func:`find_source`, and if no folder of images is there.
    """
    found = find_source(converter, folders, layout)
    if found.kind == HUB:
        return hub_examples(converter, folders, found, read, check)
    locations = image_folders(converter, folders, layout)

    def convert(question: PublishedQuestion) -> Iterator[Example]:
        check(question)
        yield locate(Example([turn_of(question)], image_names(question)), locations)

    return examples_of(read, found, convert)


def hub_examples(
    converter: Converter,
    folders: Folders,
    found: Found,
    read: Reader,
    check: Callable[[PublishedQuestion], None] = lambda question: None,
) -> Examples:
    """Read the hub's parquet files, whose images are taken out; see :func:`question_examples`."""
    from medcap.datasets.rows.parquet_rows import ImageStore

    folder = os.path.join(folders.out, f"{converter.name}_images")
    store = ImageStore(Path(folder))

    def convert(question: PublishedQuestion) -> Iterator[Example]:
        check(question)
        if question.content is None:
            raise SkipRecord("there is no image in the file")
        yield Example([turn_of(question)], (store.write(question.content).name,), folder)

    return examples_of(read, found, convert)


def examples_of(read: Reader, found: Found, convert: Callable[[PublishedQuestion], Iterator[Example]]) -> Examples:
    """Read the questions of files that were found."""
    return lambda tally: each(((it.location, it) for it in read(found, tally)), convert, tally)


def turn_of(question: PublishedQuestion) -> tuple[str, str]:
    """Return what is asked and the first accepted answer.

    Raises:
        SkipRecord: if one of them has no words.
    """
    answer = question.answers[0] if question.answers else None
    return words(question.question, "question"), words(answer, "answer")


def image_names(question: PublishedQuestion) -> tuple[str, ...]:
    """Return the names that the image may have.

    Raises:
        SkipRecord: if there is none, or it leads out of its folder.
    """
    name = safe_name(words(question.image, "image"))
    return tuple(name + suffix for suffix in question.suffixes)


def locate(example: Example, locations: Sequence[str]) -> Example:
    """Give an example the first of several folders that holds its image, or the first one if none does."""
    for location in locations:
        if any(os.path.isfile(os.path.join(location, name)) for name in example.images):
            return replace(example, folder=location)
    return replace(example, folder=locations[0])
