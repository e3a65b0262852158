"""VQA-RAD: its training questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.example import Example, SkipRecord, each
from medcap.datasets.conversion.fields import image_of, text_of
from medcap.datasets.conversion.hub import hub_examples, hub_files
from medcap.datasets.conversion.reading import json_records

_FOLDERS = ("VQA_RAD", "VQA-RAD", "vqa-rad", "vqa_rad")
_PHRASES = ("freeform", "para")  # those of the test set begin with test_


class VqaRadQuestions(Converter):
    """The phrases ``freeform`` and ``para`` of ``VQA_RAD Dataset Public.json``, or the hub's copy."""

    name = "vqarad-qa"
    converts = "VQA-RAD: training questions (the test phrases are left out)"
    download = (
        "download 'VQA_RAD Dataset Public.json' and 'VQA_RAD Image Folder' (Open Science Framework, node 89kps) to"
        " VQA_RAD, or data/train-*.parquet of flaviagiammarino/vqa-rad from the hub to vqa-rad"
    )
    output = "vqarad-qa_train.jsonl"

    def examples(self, folders: Folders) -> Examples:
        """See :meth:`Converter.examples`."""
        if files := hub_files(folders, _FOLDERS, "train"):
            return hub_examples(files, folders, self.name)
        path = Path(self.need(folders, *(f"{name}/VQA_RAD Dataset Public.json" for name in _FOLDERS)))
        images = self.need_images(folders, *(f"{name}/VQA_RAD Image Folder" for name in _FOLDERS))

        def convert(record: Mapping[str, Any]) -> Iterator[Example]:
            if text_of(record, "phrase_type") not in _PHRASES:
                raise SkipRecord("a question of the test set")
            turns = [(text_of(record, "question"), text_of(record, "answer"))]
            yield Example(turns, (image_of(record, "image_name"),), images)

        return lambda tally: each(json_records(path, tally), convert, tally)
