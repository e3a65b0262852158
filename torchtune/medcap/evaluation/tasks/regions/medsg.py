"""MedSG-Bench: find a region on one of several medical images."""

from __future__ import annotations

from pathlib import Path

from medcap.data.boxes.box import Box, Size
from medcap.data.boxes.notations import write_box
from medcap.datasets.published import medsg
from medcap.datasets.published.marked import SHARES, MarkedImage, MarkedObject, boxes_of
from medcap.datasets.published.reading import Strict
from medcap.errors import UserError
from medcap.evaluation.tasks.base import Benchmark, ImageFinder, Task
from medcap.evaluation.tasks.official import find_benchmark, image_finder, published_benchmark
from medcap.evaluation.tasks.regions.boxes import DEFAULT_BOXES, UNUSABLE, BoxOptions, Sizes, chosen, text_meta
from medcap.generation.prompt import user_message
from medcap.scoring.question import Question

PUBLISHED = {"rows": 9_630}


class MedSgTask(Task):
    """``Task1.json`` to ``Task8.json``; ``subtasks`` are the names in their field ``task``.

    The images stand before the words. Boxes of a question are written in thousandths of the image that they are on. The
    published evaluation reads the first four numbers of an answer, whatever they are of; ``boxes`` is strict.
    """

    name = "medsg"
    title = "MedSG-Bench"
    protocols = ("boxes",)
    Options = BoxOptions

    def load(self, source: str | Path, options: BoxOptions = DEFAULT_BOXES) -> Benchmark:
        """Read the questions; see :meth:`Task.load`."""
        wanted = chosen(options, medsg.TASKS)
        found = find_benchmark(
            source,
            self.title,
            medsg.LAYOUT,
            "MedSG-Bench/Task1.json to Task8.json and the images of Task1.zip to Task8.zip beside them"
            " (MedSG-Bench/MedSG-Bench on the hub)",
        )
        find, roots = image_finder(found.folder, medsg.LAYOUT.images, options.image_roots, options.view)
        sizes, strict = Sizes(find), Strict(self.title)
        rows = [
            _row(question, f"{path.stem.lower()}/{number}", find, sizes)
            for path in found.files
            for number, question in enumerate(medsg.questions(path, strict))
            if question.task in wanted or not options.wanted
        ]
        complete = len(found.files) == 8 and not options.wanted
        return published_benchmark(found, rows, roots=roots, expected=PUBLISHED if complete else None)


def _row(it: medsg.SequenceQuestion, name: str, find: ImageFinder, sizes: Sizes) -> Question:
    images, problem, first, size = [], None, None, it.size
    for names in it.images:
        images.append(find.first_of(*names))
        problem = problem or find.problem
    boxes: tuple[Box, ...] | None = None
    words = it.question
    try:
        if problem is None:
            first, shown = sizes(images[0]), sizes(images[it.target])
            words = medsg.words_of(it.question, first)
            boxes, size = _boxes(it, shown), shown
        else:
            boxes = _boxes(it, None)
    except UserError as error:
        problem = problem or str(error)
    reference = ", ".join(write_box(box, "thousandths", size or SHARES) for box in boxes or ()) or UNUSABLE
    return Question(
        name,
        [user_message(images, words)],
        (reference,),
        meta=text_meta({"task": it.task, "question_type": it.task, "patient": it.patient}),
        problem=problem or (None if words else "the file gives no question"),
        boxes=boxes,
        image_size=size,
    )


def _boxes(it: medsg.SequenceQuestion, shown: Size | None) -> tuple[Box, ...]:
    marked = MarkedObject("", (it.answer,))
    (box,) = boxes_of(marked, MarkedImage(it.location, (), (marked,), it.size), shown)
    return (Box(box.edges, image=it.target),)
