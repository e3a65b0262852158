"""VQA-Med's files: ImageCLEF's questions about radiology images, of 2019, 2020 and 2021."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medcap.datasets.published.finding import Found, Layout
from medcap.datasets.published.question import PublishedQuestion
from medcap.datasets.published.reading import Tally, bar_records
from medcap.errors import UserError

TEST_2019, TEST_2021 = "test 2019", "test 2021"
_SUFFIXES = (".jpg", ".png", ".jpeg")  # the files name images without
_2020 = "VQA-Med-2020-Task1-VQAnswering-TrainVal-Sets/VQAMed2020-VQAnswering-"
_FILE_2020 = "VQAnswering_2020_"
# (year, split) -> folder of the archive, file of questions, folders of images.
PARTS = {
    ("2019", "train"): ("ImageClef-2019-VQA-Med-Training", "All_QA_Pairs_train.txt", "Train_images"),
    ("2019", "validation"): ("ImageClef-2019-VQA-Med-Validation", "All_QA_Pairs_val.txt", "Val_images"),
    ("2019", "test"): ("VQAMed2019Test", "VQAMed2019_Test_Questions_w_Ref_Answers.txt", "VQAMed2019_Test_Images"),
    ("2020", "train"): (f"{_2020}TrainingSet", f"{_FILE_2020}Train_QA_pairs.txt", f"{_FILE_2020}Train_images"),
    ("2020", "validation"): (f"{_2020}ValidationSet", f"{_FILE_2020}Val_QA_Pairs.txt", f"{_FILE_2020}Val_images"),
    ("2021", "validation"): (
        "VQA-Med-2021-Tasks-1-2-NewValidationSets",
        "VQA-Med-2021-VQAnswering-Task1-New-ValidationSet.txt",
        "ImageCLEF-2021-VQA-Med-New-Validation-Images",
    ),
    ("2021", "test"): (
        "Task1-VQA-2021-TestSet-w-GroundTruth",
        "Task1-VQA-2021-TestSet-Questions.txt",
        *("VQA-500-Images", "images/VQA-500-Images", "images", "Task1-VQA-2021-TestSet-Images"),
    ),
}
_ANSWERS_2021 = (
    "Task1-VQA-2021-TestSet-ReferenceAnswers.txt",
    "Task1-VQAnswering2021-Test-ReferenceAnswers-4Evaluator.txt",
)
_OPTIONAL = re.compile(r"\s*\([^()]*\)\s*")


def layout(year: str, split: str) -> Layout:
    """Return the names of a part's files; the kind of its file is its year, before ``test`` if it is of a test set."""
    archive, file, images, *others = PARTS[year, split]
    top, last = f"VQA-Med-{year}", archive.rpartition("/")[2]
    kind = f"test {year}" if split == "test" else year
    # An archive is unpacked with or without its own folder, and so is one of images.
    folders = dict.fromkeys((f"{top}/{archive}", f"{top}/{last}", archive, last, top))
    further = dict.fromkeys((*others, f"{images}/{images}", "images"))
    return Layout(tuple(folders), {kind: (file,)}, (images, *further))


def questions(found: Found, tally: Tally) -> Iterator[PublishedQuestion]:
    """Read lines ``image|question|answer`` of a training or validation set, or those of a test set.

    2019's are ``image|category|question|answers``, where ``#`` stands between accepted answers and a part in brackets
    may be left out (README-VQA-Med-2019-TestSet.txt). 2021's are ``image|question`` and, in a second file,
    ``image|answer|answer...``.

    Raises:
        UserError: if the answers of 2021 are missing.
    """
    path = found.files[0]
    if found.kind == TEST_2019:
        for location, (image, category, text, answers) in bar_records(path, "image|category|question|answers", tally):
            yield _question(location, image, text, accepted_answers(answers), category)
    elif found.kind == TEST_2021:
        layout = "image|answers"
        accepted = {image: rest.split("|") for _, (image, rest) in bar_records(answers_file(found), layout, tally)}
        for location, (image, text) in bar_records(path, "image|question", tally):
            answers = [answer.strip() for answer in accepted.get(image, []) if answer.strip()]
            yield _question(location, image, text, answers, "abnormality")
    else:
        for location, (image, text, answer) in bar_records(path, "image|question|answer", tally):
            yield _question(location, image, text, [answer], "")


def answers_file(found: Found) -> Path:
    """Return the file with the answers of 2021's test set.

    Raises:
        UserError: if there is none.
    """
    beside = found.files[0].parent
    for name in _ANSWERS_2021:
        if (beside / name).is_file():
            return beside / name
    raise UserError(f"{found.files[0]} has no answers: put {_ANSWERS_2021[0]} beside it")


def accepted_answers(text: str) -> list[str]:
    """Return what a reference of 2019 accepts.

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


def _question(location: str, image: str, text: str, answers: list[str], category: str) -> PublishedQuestion:
    return PublishedQuestion(location, image, text, answers, image, _SUFFIXES, meta={"question_type": category})
