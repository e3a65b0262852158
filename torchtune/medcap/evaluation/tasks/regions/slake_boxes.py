"""SLAKE's boxes: where an organ or a lesion of a radiology image is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medcap.datasets.published import slake, slake_boxes
from medcap.datasets.published.box_questions import KINDS, Asking
from medcap.datasets.published.fields import ask_for
from medcap.datasets.published.finding import Layout
from medcap.datasets.published.marked import AbsentObjects, MarkedImage
from medcap.datasets.published.reading import Tally
from medcap.errors import UserError
from medcap.evaluation.tasks.base import Benchmark, ImageFinder, Task, make_benchmark
from medcap.evaluation.tasks.official import find_benchmark, image_finder
from medcap.evaluation.tasks.regions.boxes import (
    DEFAULT_BOXES,
    UNUSABLE,
    BoxOptions,
    Sizes,
    chosen,
    skipped_notices,
    text_meta,
)
from medcap.generation.prompt import user_message
from medcap.plurals import counted
from medcap.scoring.question import Question


class SlakeBoxesTask(Task):
    """A question about each object of ``Slake1.0/imgs/*/detection.json``, for the images of the test questions.

    ``subtasks`` are REC (where is an object; the default), REG (what lies in a box) and DET (all objects and boxes);
    ``absent`` adds objects that the image does not show. There is no published protocol for these boxes.
    """

    name = "slake_boxes"
    title = "SLAKE, boxes"
    protocols = ("boxes",)
    Options = BoxOptions

    def folder(self, options: BoxOptions) -> str:
        """Return the name of its result folder; the validation set has its own."""
        return self.name if options.split == "test" else f"{self.name}-{options.split}"

    def load(self, source: str | Path, options: BoxOptions = DEFAULT_BOXES) -> Benchmark:
        """Read the objects and ask about them; see :meth:`Task.load`."""
        kinds = chosen(options, KINDS) if options.subtasks is not None else ("REC",)
        whole = slake.layout(options.split)
        layout = Layout(whole.folders, {"official": whole.kinds["official"]}, whole.images)
        found = find_benchmark(
            source, self.title, layout, "Slake1.0/test.json and Slake1.0/imgs (BoKelvin/SLAKE on the hub)"
        )
        find, roots = image_finder(found.folder, layout.images, options.image_roots, options.view)
        tally = Tally()
        images = list(slake_boxes.images(found, [Path(root) for root in roots], tally))
        absent = AbsentObjects(images, options.absent) if options.absent else None
        asking, sizes = Asking(kinds, notation="thousandths", absent=absent), Sizes(find)
        rows = [row for image in images for row in _rows(image, asking, find, sizes)]
        boxes = [Path(image.location) for image in images]
        size = f"{counted(len(images), 'image')}, {counted(len(rows), 'question')}; no count is published"
        return make_benchmark(
            rows,
            found.folder,
            [*found.files, *boxes],
            found.folder,
            roots=roots,
            notices=[*skipped_notices(tally), size],
        )


def _rows(image: MarkedImage, asking: Asking, find: ImageFinder, sizes: Sizes) -> Iterator[Question]:
    reference = find.first_of(*image.names)
    size, problem = None, find.problem
    if problem is None:
        try:
            size = sizes(reference)
        except UserError as error:
            problem = str(error)
    unusable: list[tuple[str, str]] = []
    questions = asking.questions(image, size, lambda reason, phrase: unusable.append((phrase, reason)))
    name = image.names[0]
    for number, question in enumerate(questions):
        yield Question(
            f"{name}/{question.task.lower()}/{question.phrase or number}",
            [user_message(reference, question.question)],
            (question.answer,),
            meta=text_meta({"task": question.task, "phrase": question.phrase, **image.meta}),
            problem=problem,
            boxes=question.boxes,
            image_size=size,
        )
    for phrase, reason in unusable:
        yield Question(
            f"{name}/rec/{phrase}",
            [user_message(reference, ask_for(asking.where, phrase))],
            (UNUSABLE,),
            meta=text_meta({"task": "REC", "phrase": phrase, **image.meta}),
            problem=problem or f"{image.location}: {phrase}: {reason}",
            image_size=size,
        )
