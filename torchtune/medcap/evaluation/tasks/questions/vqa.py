"""Visual questions from any file in LLaVA-Med's layout or the project's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchtune.data import Message

from medcap.data.images.reader import IMAGE_KEYS
from medcap.data.images.reference import ImageRef
from medcap.data.images.row_entry import image_entries
from medcap.data.images.view_keys import read_view
from medcap.data.row_layouts import CONVERSATION_KEYS, text_of_value
from medcap.datasets.published.fields import field_text, option_texts, question_text
from medcap.datasets.published.llava_turns import conversation_questions
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError
from medcap.evaluation.tasks.base import (
    DEFAULTS,
    Benchmark,
    ImageFinder,
    LoadOptions,
    Task,
    image_reader,
    make_benchmark,
)
from medcap.evaluation.tasks.official import answer_type_of
from medcap.generation.prompt import user_message
from medcap.generation.typed_placeholders import find_placeholders, place_images
from medcap.scoring.question import Question

_FILES = ("vqa.jsonl", "vqa.json", "test.json", "test.jsonl")
_FOLDERS = ("LLaVA-Med", "llava-med")
_ID_KEYS = ("question_id", "id", "qid")
_IMAGE_KEYS = ("image", "images")
_REFERENCE_KEYS = ("reference", "answer")
_META_KEYS = ("modality", "question_type", "organ", "dataset")
# LLaVA-Med's files "w_options" write the options after the question (run_eval.py's sample answers).
_CHOICES = re.compile(r"options:\s*\[([^\[\]]*)\]\s*$")


class VqaTask(Task):
    """One question and its accepted answers a row.

    The file is JSON or JSONL. A row has ``question``, ``reference`` (or ``answer``; text or a list of texts),
    ``image`` (relative to the file's folder or an image root; absent for a question without an image; a list, or
    ``images``, for several), and may have
    ``question_id``, ``answer_type``, ``options`` (a list, or text like ``[yes, no]``), ``modality``,
    ``question_type`` and ``organ``. LLaVA-Med's ``test.json`` rows (``id``, ``image``, ``conversations`` or
    ``conversatons``, ``answer_type``) are read too, each pair of turns as one question; options that stand at a
    question's end are taken from there.

    Example:
        >>> VqaTask().load("datasets/phantom/test/vqa.jsonl").rows[0].references
        ('korvogram',)
    """

    name = "vqa"
    title = "Visual questions"
    protocols = ("exact",)

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read questions; see :meth:`Task.load`. The keys decide the layout, not by ``conversation_style``."""
        path = data_file(source, _FILES, _FOLDERS)
        find = ImageFinder(image_reader(path, options.image_roots), options.view)
        rows = []
        for index, value in read_rows(path):
            try:
                rows += self._questions(value, index, find)
            except UserError as error:
                raise UserError(f"{path}, row {index}: {error}") from None
        return make_benchmark(rows, path, [path], path.parent, roots=find.reader.roots)

    def _questions(self, value: Any, index: int, find: ImageFinder) -> list[Question]:
        """Return the questions of a row; raise ``UserError`` if it is of no known layout."""
        return row_questions(value, index, find)


def data_file(source: str | Path, names: Sequence[str], folders: Sequence[str] = ()) -> Path:
    """Return the file of a task that has no official folder.

    Args:
        source: the file, or a folder that holds one of ``names``.
        names: what a folder's file may be called.
        folders: subfolders in which to look first.

    Returns:
        The file.

    Raises:
        UserError: if there is none.
    """
    path = Path(source)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"data file {path} does not exist")
    for folder in [*(path / name for name in folders), path]:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise UserError(f"dataset_source: the folder {path} holds none of {', '.join(names)}; name the data file itself")


def row_questions(value: Any, index: int, find: ImageFinder) -> list[Question]:
    """Return the questions of a row of :class:`VqaTask`.

    Args:
        value: the decoded JSON value.
        index: number of the row.
        find: finds its images.

    Raises:
        UserError: if it is of no known layout.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"a row must be an object, not {type(value).__name__}")
    images, problems = [], []
    own = read_view(value, find.view)
    for path, keys in _image_entries(value):
        images.append(replace(find.first_of(path), view=read_view(keys, own)))
        problems.append(find.problem)
    name = next((str(value[key]) for key in _ID_KEYS if field_text(value.get(key))), str(index))
    return [
        Question(
            id=name,
            messages=[question_message(images, question)],
            references=references,
            options=_options(value.get("options")) or _options_of(question_text(question)),
            answer_type=answer_type_of(value.get("answer_type")),
            meta={key: field_text(value[key]) for key in _META_KEYS if field_text(value.get(key))},
            problem=next(filter(None, problems), None),
        )
        for question, references in _questions(value)
    ]


def _image_entries(value: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the images that a row names under ``image`` or ``images``, each with the keys of its view."""
    named = [value[key] for key in _IMAGE_KEYS if value.get(key)]
    named = [images if isinstance(images, list) else [images] for images in named]
    if any(images != named[0] for images in named):
        raise UserError("'image' and 'images' name different images: keep one of them")
    other = next((key for key in (*IMAGE_KEYS, "img") if key not in _IMAGE_KEYS and value.get(key)), None)
    if not named and other is not None:
        raise UserError(f"'{other}' is not read: name the image under 'image'")
    return image_entries(named[0] if named else [], "image")


def question_message(images: Sequence[ImageRef], words: str) -> Message:
    """Return the turn of a question with its images.

    Args:
        images: any number.
        words: the question, perhaps with placeholders; several images stand where as many of these are, and otherwise
            before the words.
    """
    if len(images) > 1 and find_placeholders(words).count == len(images):
        return Message(role="user", content=place_images(words, images), masked=True)
    return user_message(images, question_text(words))


def _options(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip(" '\"") for part in re.split(r"[|,]", value.strip().removeprefix("[").removesuffix("]"))]
    if value is not None and not isinstance(value, list):
        raise UserError("'options' must be a list, or text like [yes, no]")
    for option in value or []:
        if option is not None and option == option:  # null and NaN: an empty cell of a table
            text_of_value(option, "options")
    return option_texts(value or [])


def _options_of(question: str) -> tuple[str, ...]:
    match = _CHOICES.search(question)
    return _options(match[1]) if match else ()


def _questions(value: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    turns_key = next((key for key in CONVERSATION_KEYS if key in value), None)
    if turns_key is not None:
        for question, answer in conversation_questions(value[turns_key], turns_key):
            yield _question(question, "value"), _references(answer, "value")
        return
    if "question" not in value:
        raise UserError(f"there is no 'question' (the row has: {', '.join(map(str, value)) or 'nothing'})")
    reference_key = next((key for key in _REFERENCE_KEYS if value.get(key) is not None), None)
    if reference_key is None:
        raise UserError(f"there is no '{_REFERENCE_KEYS[0]}' to compare with")
    yield _question(value["question"], "question"), _references(value[reference_key], reference_key)


def _question(value: Any, key: str) -> str:
    text = "" if value is None else text_of_value(value, key).strip()
    if not question_text(text):
        raise UserError("the question is empty")
    return text


def _references(value: Any, key: str) -> tuple[str, ...]:
    references = tuple(text_of_value(item, key).strip() for item in (value if isinstance(value, list) else [value]))
    if not references or not all(references):
        raise UserError("the reference is empty")
    return references
