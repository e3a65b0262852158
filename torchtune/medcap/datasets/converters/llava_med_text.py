"""LLaVA-Med-60K-IM-text: paragraphs made of LLaVA-Med's conversations, by medcap."""

from __future__ import annotations

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.captions import json_captions


class LlavaMedText(Converter):
    """``train_text_med60k.json`` of rows with ``image`` and ``text``, and the folder ``images_med60k/images``."""

    name = "llava-med-60k-im-text"
    converts = "LLaVA-Med-60K-IM-text: medcap 2024's paragraphs from LLaVA-Med's conversations"
    download = (
        "download myeongkyunkang/LLaVA-Med-60K-IM-text from the hub to PMC-VQA-text: its train_text.json named"
        " train_text_med60k.json, its images.zip unpacked to PMC-VQA-text/images_med60k"
    )
    output = "llava-med-60k-im-text_train.jsonl"
    captions = True

    def examples(self, folders: Folders) -> Examples:
        file = self.need(folders, "PMC-VQA-text/train_text_med60k.json")
        return json_captions(file, self.need_images(folders, "PMC-VQA-text/images_med60k/images"), "image", "text")
