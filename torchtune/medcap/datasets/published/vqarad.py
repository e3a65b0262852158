"""VQA-RAD's files: radiology questions, open and closed."""

from __future__ import annotations

from collections.abc import Iterator

from medcap.datasets.published.finding import HUB, Found, Layout, hub_files
from medcap.datasets.published.question import PublishedQuestion, read_questions
from medcap.datasets.published.reading import Tally

PHRASES = {"train": ("freeform", "para"), "test": ("test_freeform", "test_para")}
_FOLDERS = ("VQA_RAD", "VQA-RAD", "vqa-rad", "vqa_rad", "vqarad")
_IMAGES = ("VQA_RAD Image Folder", "VQA_RAD_Image_Folder", "images")
_META = {"question_type": "question_type", "organ": "image_organ", "phrase_type": "phrase_type"}


def layout(split: str) -> Layout:
    """Return the names of a split's files, ``train`` or ``test``; the official file holds both."""
    return Layout(_FOLDERS, {"official": ("VQA_RAD Dataset Public.json",), HUB: hub_files(split)}, _IMAGES)


def questions(found: Found, tally: Tally) -> Iterator[PublishedQuestion]:
    """Read rows with ``qid``, ``phrase_type``, ``question``, ``answer``, ``answer_type``, ``question_type``,
    ``image_organ`` and ``image_name``, of both splits, or a split of the hub's copy, which has only image, question and
    answer. It has no modality.
    """
    return read_questions(found, tally, "image_name", ("phrase_type",), _META)
