"""Rad-ReStruct: the questions that fill in a structured report of a chest X-ray.

``data/radrestruct`` of ChantalMP/Rad-ReStruct (14e26cc) has ``<split>_qa_pairs/<report>.json``, ``new_reports``, and
``id_to_img_mapping_frontal_reports.json``, which lists the images of each report (names in ``images`` without
``.png``). A file is an array of ``[question, answers, history, info]``: ``answers`` is a list, ``history`` holds the
questions above it in the report with their answers, and ``info`` has ``answer_type`` (``single_choice`` or
``multi_choice``), ``options`` and ``path`` (``lung_signs_opacity``). ``data_utils/data_radrestruct.py`` reads them so:
each image of a report is asked all questions of the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.data.json_text import JsonError, parse_json
from medcap.datasets.published.fields import field_text, option_texts, question_text
from medcap.datasets.published.finding import Found, Layout
from medcap.datasets.published.reading import Tally, progress
from medcap.errors import UserError

IMAGES_OF_REPORTS = "id_to_img_mapping_frontal_reports.json"
_FOLDERS = ("Rad-ReStruct/data/radrestruct", "radrestruct", "Rad-ReStruct", "data/radrestruct")
_BINARY = frozenset(("yes", "no"))
_SPLITS = {"train": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True, slots=True)
class ReportQuestion:
    """A question of a report, about one of its images.

    Attributes:
        location: the file and the question's number.
        id: image, report and number, as the benchmark's own code names a sample.
        report: the report's name.
        image: name of the image file; None where no image of the report is known.
        question: its words.
        answers: the right options, at least one.
        history: the questions above it in the report, with the options chosen there.
        options: what can be chosen.
        multiple: whether several options may be right.
        path: its place in the report's template.
        level: 1 for a topic of an area, 2 for one finding, 3 for what is said of a finding
            (``evaluation/evaluator_radrestruct.py``, ``calculate_detailed_metrics``).
    """

    location: str
    id: str
    report: str
    image: str | None
    question: str
    answers: tuple[str, ...]
    history: tuple[tuple[str, tuple[str, ...]], ...]
    options: tuple[str, ...]
    multiple: bool
    path: str
    level: int

    @property
    def area(self) -> str:
        """The part of the body, or ``foreign objects``."""
        return self.path.partition("_")[0]


def layout(split: str) -> Layout:
    """Return the names of the files of a split: ``train``, ``validation`` or ``test``."""
    return Layout(_FOLDERS, {"json": (f"{_SPLITS[split]}_qa_pairs/*.json",)}, ("images", "imgs"))


def questions(found: Found, tally: Tally) -> Iterator[ReportQuestion]:
    """Read the questions of all reports, image by image.

    Args:
        found: the files.
        tally: counts reports and questions that are damaged.

    Raises:
        UserError: if the list of images is not there or damaged.
    """
    images_of = _images_of_reports(found.folder / IMAGES_OF_REPORTS)
    for path in progress(found.files, found.folder.name, "report"):
        try:
            entries = parse_json(path.read_bytes())
        except (OSError, JsonError) as error:
            tally.read += 1
            tally.skip("not a readable file of JSON" if isinstance(error, OSError) else "not valid JSON", str(path))
            continue
        if not isinstance(entries, list):
            tally.read += 1
            tally.skip("the file is not a list of questions", str(path))
            continue
        for image in images_of.get(path.stem) or [None]:
            for number, entry in enumerate(entries):
                tally.read += 1
                location = f"{path}, question {number}"
                if (question := _question(entry, location, path.stem, image, number)) is None:
                    tally.skip("not a question with answers, history and options", location)
                else:
                    yield question


def _question(entry: Any, location: str, report: str, image: str | None, number: int) -> ReportQuestion | None:
    if not isinstance(entry, list) or len(entry) != 4:
        return None
    words, answers, history, info = entry
    if not isinstance(info, Mapping) or not isinstance(info.get("options"), list):
        return None
    options, right = option_texts(info["options"]), _texts(answers)
    above = _history(history)
    path = field_text(info.get("path"))
    if not question_text(words) or not right or above is None or len(options) < 2:
        return None
    level = 3 if set(options) != _BINARY else 2 if above or path.endswith("_infos") else 1
    return ReportQuestion(
        location,
        f"{image or 'no-image'}_{report}_{number}",
        report,
        f"{image}.png" if image else None,
        question_text(words),
        right,
        above,
        options,
        info.get("answer_type") == "multi_choice",
        path,
        level,
    )


def _texts(value: Any) -> tuple[str, ...]:
    return option_texts(value) if isinstance(value, list) else ()


def _history(value: Any) -> tuple[tuple[str, tuple[str, ...]], ...] | None:
    if not isinstance(value, list):
        return None
    pairs = [(question_text(pair[0]), _texts(pair[1])) for pair in value if isinstance(pair, list) and len(pair) == 2]
    return tuple(pairs) if len(pairs) == len(value) and all(asked and said for asked, said in pairs) else None


def _images_of_reports(path: Path) -> Mapping[str, Sequence[str]]:
    try:
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): it says which images a report has and is beside the folders of"
            " questions (ChantalMP/Rad-ReStruct)"
        ) from error
    except JsonError as error:
        raise UserError(f"{path}: not valid JSON ({error}): download it again") from error
    if not isinstance(value, dict) or not all(isinstance(names, list) for names in value.values()):
        raise UserError(f"{path} must be an object of lists of image names")
    return {report: [name for name in map(field_text, names) if name] for report, names in value.items()}
