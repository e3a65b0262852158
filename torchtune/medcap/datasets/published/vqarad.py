"""VQA-RAD's files: radiology questions, open and closed."""

from __future__ import annotations

from collections.abc import Iterator

from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import HUB, Found, Layout, hub_files
from medcap.datasets.published.question import PublishedQuestion, hub_records
from medcap.datasets.published.reading import Tally, json_records

PHRASES = {"train": ("freeform", "para"), "test": ("test_freeform", "test_para")}
_FOLDERS = ("VQA_RAD", "VQA-RAD", "vqa-rad", "vqa_rad", "vqarad")
_IMAGES = ("VQA_RAD Image Folder", "VQA_RAD_Image_Folder", "images")


def layout(split: str) -> Layout:
    """The names of a split's files, ``train`` or ``test``; the official file holds both."""
    return Layout(_FOLDERS, {"official": ("VQA_RAD Dataset Public.json",), HUB: hub_files(split)}, _IMAGES)


def questions(found: Found, tally: Tally) -> Iterator[PublishedQuestion]:
    """Read rows with ``qid``, ``phrase_type``, ``question``, ``answer``, ``answer_type``, ``question_type``,
    ``image_organ`` and ``image_name``, of both splits, or a split of the hub's copy, which has only image, question and
    answer. The modality stands nowhere.
    """
    if found.kind == HUB:
        yield from (question for _, question in hub_records(found.files, tally))
        return
    for path in found.files:
        for index, (place, row) in enumerate(json_records(path, tally)):
            tally.check_first(path, row, ("phrase_type", "question", "answer", "image_name"))
            yield PublishedQuestion(
                place,
                field_text(row.get("qid")) or str(index),
                row.get("question"),
                (row.get("answer"),),
                row.get("image_name"),
                answer_type=row.get("answer_type"),
                meta={
                    "question_type": row.get("question_type"),
                    "organ": row.get("image_organ"),
                    "phrase_type": field_text(row.get("phrase_type")),
                },
            )
