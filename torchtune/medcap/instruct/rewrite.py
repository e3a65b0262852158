"""Paragraphs made of the questions and answers about one image: how medcap 2024's ``*-text`` sets were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcap.data.row_layouts import CONVERSATION_KEYS
from medcap.datasets.conversion.example import SkipRecord
from medcap.datasets.conversion.fields import image_of, text_of
from medcap.datasets.published.llava_turns import conversation_questions
from medcap.datasets.published.reading import Tally, csv_records, json_records
from medcap.datasets.rows.delimited import delimiter_of
from medcap.datasets.rows.sharegpt import plain_words
from medcap.errors import UserError
from medcap.instruct.asking import Asked, Asking, ask_all, tally_failures
from medcap.instruct.figures import DELIMITED
from medcap.instruct.generate import finish
from medcap.instruct.prompts import pairs_words, rewriting_style
from medcap.instruct.replies import Unusable, read_paragraph
from medcap.instruct.rows import CONVERSATIONS, conversation_row, write_rows
from medcap.instruct.summary import Summary
from medcap.language_models.base import LanguageModel
from medcap.plurals import none_of

TEXTS = "text.jsonl"


@dataclass(frozen=True)
class AnswerColumns:
    """The names of a file's columns; rows with ``conversations`` need only the image's.

    Attributes:
        image: name of the image file.
        question: a question.
        answer: its answer.
    """

    image: str = "image"
    question: str = "question"
    answer: str = "answer"


@dataclass
class ImageAnswers:
    """All that is said about one image.

    Attributes:
        image: name of the image file.
        pairs: questions and answers, each once, in the order of the file.
    """

    image: str
    pairs: list[tuple[str, str]] = field(default_factory=list)


def rewrite(source: Path, columns: AnswerColumns, model: LanguageModel, out: Path, asking: Asking) -> Summary:
    """Have a model rewrite the questions and answers of each image into one paragraph.

    Writes into ``out``: ``replies.jsonl`` and ``summary.json`` as :func:`medcap.instruct.generate.generate`,
    ``text.jsonl`` with ``image`` and ``text`` (the form of medcap 2024's ``*-text`` sets) and ``conversations.jsonl``
    with the same paragraphs as rows to train on.

    Args:
        source: JSON, JSONL, CSV or TSV: rows with ``conversations``, or a row a question.
        columns: the names of its columns.
        model: who writes.
        out: folder, made if it is not there.
        asking: limits and other choices.

    Returns:
        The counts.

    Raises:
        UserError: if the answers cannot be read, the model cannot be asked, or the folder belongs to other settings.
    """
    left_out, failed = Tally(), Tally()
    style = rewriting_style(asking.examples)
    images = read_answers(source, columns, left_out)[: asking.most]
    words = {image.image: pairs_words(image.pairs) for image in images}
    asked = ask_all(model, style, words, out, asking, read_paragraph)
    tally_failures(asked, failed)
    paragraphs = list(_paragraphs(images, asked, failed))
    rows = write_rows(out / TEXTS, ({"image": image, "text": text} for image, text in paragraphs))
    trained = (conversation_row([("", text)], image, False, {"id": image}) for image, text in paragraphs)
    write_rows(out / CONVERSATIONS, trained)
    return finish(Summary("images", str(source), left_out, len(images), asked, failed, rows), out)


def read_answers(path: Path, columns: AnswerColumns, tally: Tally) -> list[ImageAnswers]:
    """Read questions and answers by image.

    Args:
        path: JSON, JSONL, CSV or TSV.
        columns: the names of its columns.
        tally: counts what is read, and what is left out by reason.

    Returns:
        The images in the order of the file.

    Raises:
        UserError: if the file cannot be read, or not one row can be used.
    """
    images: dict[str, ImageAnswers] = {}
    first: Mapping[str, Any] = {}
    if path.suffix.lower() in DELIMITED:
        records = csv_records(path, (), tally, delimiter_of(path))
    else:
        records = json_records(path, tally)
    for location, record in records:
        first = first or record
        try:
            image = image_of(record, columns.image)
            pairs = _pairs(record, columns)
        except SkipRecord as skipped:
            tally.skip(str(skipped), location)
            continue
        held = images.setdefault(image, ImageAnswers(image)).pairs
        held += [pair for pair in dict.fromkeys(pairs) if pair not in held]
    if not images:
        reasons = "; ".join(f"{count:,}: {reason}" for reason, count in tally.skipped.items())
        raise UserError(
            f"{path}: {none_of(tally.read, 'row')} can be used ({reasons or 'there is none'}); name the columns by"
            " --image-column, --question-column and --answer-column (the first row has:"
            f" {', '.join(first) or 'nothing'})"
        )
    return list(images.values())


def _pairs(record: Mapping[str, Any], columns: AnswerColumns) -> list[tuple[str, str]]:
    key = next((key for key in CONVERSATION_KEYS if key in record), None)
    if key is None:
        return [(text_of(record, columns.question), text_of(record, columns.answer))]
    try:
        pairs = [(plain_words(asked), plain_words(said)) for asked, said in conversation_questions(record[key], key)]
    except UserError as error:
        raise SkipRecord(str(error)) from None
    if not all(answer for _, answer in pairs):
        raise SkipRecord("an answer has no words")
    return pairs


def _paragraphs(images: list[ImageAnswers], asked: Asked, failed: Tally) -> Iterator[tuple[str, str]]:
    for image in images:
        reply = asked.replies.get(image.image)
        if reply is None:
            continue
        try:
            yield image.image, read_paragraph(reply.text, reply.finish)
        except Unusable as reason:
            failed.skip(str(reason), image.image)
            asked.failures[image.image] = str(reason)
