"""VQA-RAD: its training questions."""

from __future__ import annotations

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.example import SkipRecord
from medcap.datasets.conversion.questions import question_examples
from medcap.datasets.published import vqarad
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.question import PublishedQuestion


class VqaRadQuestions(Converter):
    """The phrases ``freeform`` and ``para`` of the official file, or the hub's copy."""

    name = "vqarad-qa"
    converts = "VQA-RAD: training questions (the test phrases are left out)"
    download = (
        "download 'VQA_RAD Dataset Public.json' and 'VQA_RAD Image Folder' (Open Science Framework, node 89kps) to"
        " VQA_RAD, or data/train-*.parquet of flaviagiammarino/vqa-rad from the hub to vqa-rad"
    )
    output = "vqarad-qa_train.jsonl"

    def examples(self, folders: Folders) -> Examples:
        return question_examples(self, folders, vqarad.layout("train"), vqarad.questions, _check_phrase)


def _check_phrase(question: PublishedQuestion) -> None:
    # The hub's copy has a file for each split, no phrases and no names of images.
    if question.image is not None and field_text(question.meta["phrase_type"]) not in vqarad.PHRASES["train"]:
        raise SkipRecord("a question of the test set")
