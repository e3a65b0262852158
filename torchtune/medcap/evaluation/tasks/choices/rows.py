"""Rows of multiple-choice questions about any number of images."""

from __future__ import annotations

from torchtune.data import Message

from medcap.data.images.reference import ImageRef
from medcap.data.row_layouts import PLACEHOLDER
from medcap.datasets.published.choices.question import ChoiceQuestion, letter_index
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import Found, Layout
from medcap.datasets.rows.parquet_rows import ImageStore
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.official import NO_ANSWER, image_finder
from medcap.generation.prompt import user_message
from medcap.generation.typed_placeholders import place_images
from medcap.scoring.question import Question

# What a choice is scored by: the likeliest letter, the likeliest words, and an answer in words.
PROTOCOLS = ("option_letter", "option_text", "omnimedvqa_qa")


class ChoiceRows:
    """Makes rows of choice questions.

    Args:
        found: the files.
        layout: their names.
        options: ``image_roots`` may hold images too, ``work_folder`` receives those that are in the files.
        embedded: whether images are in the files.

    Attributes:
        roots: folders that the images lie in.

    Raises:
        UserError: if images have to be written and there is no work folder.
    """

    def __init__(self, found: Found, layout: Layout, options: LoadOptions, *, embedded: bool = False) -> None:
        self._find, self.roots = image_finder(found.folder, layout.images, options.image_roots, options.view)
        self._store: ImageStore | None = None
        if embedded:
            if options.work_folder is None:
                raise UserError(
                    f"{found.source}: its images lie inside the file and need an output_dir to be written to"
                )
            self._store = ImageStore(options.work_folder)
            self._store.folder.mkdir(parents=True, exist_ok=True)
            self.roots = [self._store.folder]

    def __call__(self, it: ChoiceQuestion) -> Question:
        """Make a row, whatever is wrong with it; a letter that no option has is kept as its answer, which is wrong.

        Args:
            it: what the file says.

        Returns:
            The row, with a ``problem`` if an image, the words, the options or the answer are missing.
        """
        images, problem = self._images(it)
        columns = it.columns or ()
        options = tuple(filter(None, columns))
        if not it.images:
            problem = problem or "the file names no image"
        if not it.question.replace(PLACEHOLDER, "").strip():
            problem = problem or "the file gives no question"
        if it.columns is not None and len(options) < 2:
            problem = problem or "the file gives fewer than two options"
        if not it.answer:
            problem = problem or "the file gives no answer"
        return Question(
            id=it.id,
            messages=[_message(images, it.question)],
            references=_references(it, columns),
            options=options,
            columns=() if len(options) == len(columns) else columns,
            meta={key: field_text(value) for key, value in it.meta.items() if field_text(value)},
            problem=problem,
        )

    def _images(self, it: ChoiceQuestion) -> tuple[list[ImageRef], str | None]:
        """Return the images that are there, and the first problem."""
        images, problem = [], it.problem
        for number, image in enumerate(it.images, start=1):
            if isinstance(image, str):
                images.append(self._find.first_of(image))
                problem = problem or self._find.problem
            elif image is not None and self._store is not None:
                images.append(ImageRef(str(self._store.write(image)), self._find.view))
            else:
                problem = problem or f"the file holds no image {number}"
        return images, problem


def _references(it: ChoiceQuestion, columns: tuple[str, ...]) -> tuple[str, ...]:
    if it.columns is None:
        return tuple(it.answer) or (NO_ANSWER,)
    answer = str(it.answer)
    index = letter_index(answer)
    if index is not None and index < len(columns) and columns[index]:
        return (columns[index],)
    # Options may be letters themselves, so the unknown letter alone could be one of them.
    return (f"(option {answer}, which the question does not have)" if answer else NO_ANSWER,)


def _message(images: list[ImageRef], words: str) -> Message:
    if PLACEHOLDER in words and words.count(PLACEHOLDER) == len(images):
        return Message(role="user", content=place_images(words, images), masked=True)
    return user_message(images, words.replace(PLACEHOLDER, " ").strip())
