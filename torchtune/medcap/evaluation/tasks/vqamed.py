"""VQA-Med: the ImageCLEF test sets of 2019 (four categories) and 2021 (abnormality)."""

from __future__ import annotations

import re
from pathlib import Path

from medcap.errors import UserError
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, ImageFinder, LoadOptions, Task, make_benchmark
from medcap.evaluation.tasks.official import (
    DERIVED_TYPES,
    Found,
    find_benchmark,
    image_finder,
    official_row,
    read_fields,
    yes_no_type,
)
from medcap.scoring.question import Question

PUBLISHED = {"rows": 500}
_FILE_2019 = "VQAMed2019_Test_Questions_w_Ref_Answers.txt"
_FILE_2021 = "Task1-VQA-2021-TestSet-Questions.txt"
_ANSWERS_2021 = (
    "Task1-VQA-2021-TestSet-ReferenceAnswers.txt",
    "Task1-VQAnswering2021-Test-ReferenceAnswers-4Evaluator.txt",
)
_FOLDERS_2019 = ("VQA-Med-2019/VQAMed2019Test", "VQAMed2019Test", "VQA-Med-2019")
_FOLDERS_2021 = (
    "VQA-Med-2021/Task1-VQA-2021-TestSet-w-GroundTruth",
    "Task1-VQA-2021-TestSet-w-GroundTruth",
    "VQA-Med-2021",
)
_IMAGES_2019 = ("VQAMed2019_Test_Images", "VQAMed2019_Test_Images/VQAMed2019_Test_Images", "images")
_IMAGES_2021 = ("VQA-500-Images", "images/VQA-500-Images", "images", "Task1-VQA-2021-TestSet-Images")
_SUFFIXES = (".jpg", ".png", ".jpeg")
_OPTIONAL = re.compile(r"\s*\([^()]*\)\s*")


class VqaMedTask(Task):
    """The official text files of one year, with every answer that they accept.

    2019: lines ``image|category|question|answers``, where ``#`` stands between accepted answers and a part in
    brackets may be left out (README-VQA-Med-2019-TestSet.txt). 2021: lines ``image|question`` and, in a second file,
    ``image|answer|answer...``. The two years are two benchmarks.
    """

    name = "vqamed"
    title = "VQA-Med"
    protocols = ("exact", "llava_med", "llava_med_strict")

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the 500 test questions of a year; see :meth:`Task.load`."""
        found = find_benchmark(
            source,
            self.title,
            (*_FOLDERS_2019, *_FOLDERS_2021),
            {"2019": (_FILE_2019,), "2021": (_FILE_2021,)},
            f"VQA-Med-2019/VQAMed2019Test/{_FILE_2019} and VQAMed2019_Test_Images beside it (abachaa/VQA-Med-2019 on"
            f" GitHub), or VQA-Med-2021/Task1-VQA-2021-TestSet-w-GroundTruth/{_FILE_2021} with its answers and images"
            " (abachaa/VQA-Med-2021)",
        )
        second = next((Path(source, name) for name in _FOLDERS_2021 if Path(source, name, _FILE_2021).is_file()), None)
        if found.kind == "2019" and second is not None:
            raise UserError(
                f"{source} holds VQA-Med of 2019 and of 2021, which are two benchmarks: run them one after the other"
                f" with dataset_source={found.folder} and dataset_source={second}"
            )
        images = _IMAGES_2019 if found.kind == "2019" else _IMAGES_2021
        find, roots = image_finder(found.folder, images, options.image_roots)
        rows, files = (_rows_2019 if found.kind == "2019" else _rows_2021)(found, find)
        return make_benchmark(
            rows,
            found.folder,
            files,
            found.folder,
            roots=roots,
            expected=PUBLISHED,
            notices=[DERIVED_TYPES],
        )


def accepted_answers(text: str) -> list[str]:
    """What a reference of 2019 accepts.

    Args:
        text: answers with ``#`` between them, parts that may be left out in brackets.

    Returns:
        For each answer: as it stands; without the brackets' signs; without what is in them. Each once.
    """
    answers: dict[str, None] = {}
    for answer in text.split("#"):
        bare = " ".join(answer.replace("(", " ").replace(")", " ").split())
        short = " ".join(_OPTIONAL.sub(" ", answer).split())
        answers |= dict.fromkeys(form for form in (answer.strip(), bare, short) if form)
    return list(answers)


def _row(image: str, question: str, answers: list[str], category: str, find: ImageFinder) -> Question:
    path = find.first_of(*(image + suffix for suffix in _SUFFIXES)) if image else None
    return official_row(
        image,
        question,
        answers,
        path,
        find.problem if image else None,
        answer_type=yes_no_type(answers),
        question_type=category,
    )


def _rows_2019(found: Found, find: ImageFinder) -> tuple[list[Question], list[Path]]:
    rows = []
    for _, fields in read_fields(found.files[0], 4, "image|category|question|answers"):
        image, category, question, *answers = fields
        rows.append(_row(image, question, accepted_answers("|".join(answers)), category, find))
    return rows, found.files


def _rows_2021(found: Found, find: ImageFinder) -> tuple[list[Question], list[Path]]:
    beside = found.files[0].parent
    path = next((beside / name for name in _ANSWERS_2021 if (beside / name).is_file()), None)
    if path is None:
        raise UserError(f"{found.files[0]} has no answers: put {_ANSWERS_2021[0]} beside it")
    answers = {fields[0]: fields[1:] for _, fields in read_fields(path, 2, "image|answer|...")}
    rows = []
    for _, fields in read_fields(found.files[0], 2, "image|question"):
        image, *question = fields
        accepted = [answer for answer in answers.get(image, []) if answer]
        rows.append(_row(image, "|".join(question), accepted, "abnormality", find))
    return rows, [found.files[0], path]
