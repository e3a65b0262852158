"""PMC-VQA-text: paragraphs about PMC-VQA's images, by medcap."""

from __future__ import annotations

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.captions import json_captions


class PmcVqaText(Converter):
    """``train_text.json`` of rows with ``Figure_path`` and ``text``, and the folder ``images``."""

    name = "pmcvqa-text"
    converts = "PMC-VQA-text: medcap 2024's paragraphs about PMC-VQA's images"
    download = (
        "download myeongkyunkang/PMC-VQA-text from the hub to PMC-VQA-text: train_text.json, and the images unpacked"
        " to PMC-VQA-text/images"
    )
    output = "pmcvqa-text_train.jsonl"
    captions = True

    def examples(self, folders: Folders) -> Examples:
        file = self.need(folders, "PMC-VQA-text/train_text.json")
        return json_captions(file, self.need_images(folders, "PMC-VQA-text/images"), "Figure_path", "text")
