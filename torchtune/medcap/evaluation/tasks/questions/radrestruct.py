"""Rad-ReStruct: options of a structured report, asked question by question."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from torchtune.data import Message

from medcap.datasets.published import radrestruct
from medcap.datasets.published.reading import Strict
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, ImageFinder, LoadOptions, Task
from medcap.evaluation.tasks.official import find_benchmark, image_finder, published_benchmark
from medcap.generation.prompt import user_message
from medcap.scoring.question import BETWEEN_OPTIONS, Question

_ALL_THAT_APPLY = " Name all that apply, with commas between them."


class RadReStructTask(Task):
    """``test_qa_pairs``; every image of a report is asked all questions of the report.

    A question keeps the questions above it in the report, with the answers of the file. The published evaluation keeps
    the answers of the model and asks on only where these say yes, so its scores are lower and not comparable.
    ``question_type`` is the level, ``organ`` the area, ``phrase`` the place in the report, ``patient`` the report.
    """

    name = "radrestruct"
    title = "Rad-ReStruct"
    protocols = ("report_options",)

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the questions of the test reports; see :meth:`Task.load`."""
        layout = radrestruct.layout("test")
        found = find_benchmark(
            source,
            self.title,
            layout,
            "Rad-ReStruct/data/radrestruct/test_qa_pairs/*.json with id_to_img_mapping_frontal_reports.json and images"
            " beside it (ChantalMP/Rad-ReStruct; NLMCXR_png.tgz of openi.nlm.nih.gov unpacked to images)",
        )
        find, roots = image_finder(found.folder, layout.images, options.image_roots, options.view)
        rows = [_row(it, find) for it in radrestruct.questions(found, Strict(self.title))]
        levels = Counter(row.meta["question_type"] for row in rows)
        counts = ", ".join(f"{level} {number:,}" for level, number in sorted(levels.items()))
        return published_benchmark(
            found,
            rows,
            roots=roots,
            notices=[f"questions: {counts}; the questions above each are given with the answers of the file"],
        )


def _row(it: radrestruct.ReportQuestion, find: ImageFinder) -> Question:
    image, problem = None, f"{radrestruct.IMAGES_OF_REPORTS} names no image of report {it.report}"
    if it.image is not None:
        image = find.first_of(it.image)
        problem = find.problem
    turns = []
    for asked, said in it.history:
        turns += [user_message(None if turns else image, asked), Message(role="assistant", content=", ".join(said))]
    words = it.question + (_ALL_THAT_APPLY if it.multiple else "")
    return Question(
        it.id,
        [*turns, user_message(None if turns else image, words)],
        (BETWEEN_OPTIONS.join(it.answers),),
        options=it.options,
        answer_type="" if it.multiple else "CLOSED",
        meta={
            "question_type": f"level {it.level}",
            "organ": it.area,
            "phrase": it.path,
            "patient": it.report,
        },
        problem=problem,
    )
