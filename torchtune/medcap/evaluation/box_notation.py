"""Ask about boxes as a run writes them, and read its answers back, whatever notation a benchmark has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from medcap.data.boxes.box import Size
from medcap.data.boxes.notations import find_box_texts
from medcap.data.boxes.style import BoxStyle
from medcap.data.images.reference import ImageRef
from medcap.data.row_boxes import place_boxes
from medcap.data.row_layouts import Record
from medcap.errors import UserError
from medcap.evaluation.answering import Entry, generated
from medcap.generation.request import Generation
from medcap.scoring.question import Question
from medcap.scoring.replies.final_reply import final_reply

SizeOf = Callable[[ImageRef], Size]


def ask_in_notation(questions: Sequence[Question], style: BoxStyle, size_of: SizeOf) -> list[Question]:
    """Write the boxes in questions as the run was taught to read them.

    Args:
        questions: questions of a benchmark, with boxes in any notation.
        style: how the run has boxes; a plain one changes nothing.
        size_of: image -> its width and height in pixels.

    Returns:
        The questions in the same order. One whose box lies outside what the tower is shown has a ``problem``.
    """
    if style.is_plain:
        return list(questions)
    # The notation of the run's own data files says nothing about a benchmark.
    style = replace(style, read=None, written=style.written or style.read, by_head=False)

    def written(question: Question) -> Question:
        if question.problem is not None or not question.images:
            return question
        try:
            record = place_boxes({}, Record(list(question.messages), Path(question.id), 0), style, size_of)
        except UserError as error:
            return replace(question, problem=str(error))
        return replace(question, messages=record.messages)

    return list(map(written, questions))


def entry_of_answer(question: Question, generation: Generation, style: BoxStyle, size_of: SizeOf) -> Entry:
    """Return what an entry of a predictions file holds of an answer.

    Where the run has its own notation, the boxes of the answer are read by it and written into ``prediction`` in the
    notation of the reference, on the original image; ``as_said`` then holds the model's words. Boxes in a model's
    reasoning are not among those that it gives.

    Args:
        question: what was asked.
        generation: the answer.
        style: how the run has boxes.
        size_of: image -> its width and height in pixels.
    """
    entry = generated(generation)
    image = question.image
    if style.is_plain or image is None or generation.error or not find_box_texts(generation.text, style.notation):
        return entry
    size, fit = question.image_size or size_of(image), image.view.fit
    if "boxes" not in entry and question.boxes is not None:
        reply = final_reply(generation.text)
        found = style.find(reply, size, fit)
        # Numbers that are no box stay for the protocol, which counts them.
        if found and len(found) == len(find_box_texts(reply, style.notation)):
            entry["boxes"] = tuple(found)
    wanted = [box.notation for box in find_box_texts(question.references[0])]
    if wanted:
        text = style.rewritten(generation.text, wanted[0], size, fit)
        if text != generation.text:
            entry |= {"prediction": text, "as_said": generation.text}
    return entry
