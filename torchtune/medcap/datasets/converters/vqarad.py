"""VQA-RAD-text: paragraphs about VQA-RAD's images, by medcap."""

from __future__ import annotations

from medcap.datasets.conversion.base import Converter, Examples, Folders, Output
from medcap.datasets.conversion.captions import json_captions


class VqaRadText(Converter):
    """``train_text.json`` and ``test_text.json`` of rows with ``image_name`` and ``text``, with VQA-RAD's images."""

    name = "vqarad"
    converts = "VQA-RAD-text: medcap 2024's paragraphs about VQA-RAD's images, train and test"
    download = (
        "download myeongkyunkang/VQA-RAD-text from the hub (train_text.json, test_text.json) and VQA-RAD"
        " (Open Science Framework, node 89kps: 'VQA_RAD Image Folder') to VQA_RAD"
    )
    captions = True

    def examples(self, folders: Folders) -> Examples:
        """Return the training part; see :meth:`Converter.examples`."""
        return self._part(folders, "train")

    def outputs(self, folders: Folders) -> list[Output]:
        """One file a part; see :meth:`Converter.outputs`."""
        return [Output(f"vqarad_{part}.json", self._part(folders, part)) for part in ("train", "test")]

    def _part(self, folders: Folders, part: str) -> Examples:
        file = self.need(folders, f"VQA_RAD/{part}_text.json")
        images = self.need_images(folders, "VQA_RAD/VQA_RAD Image Folder")
        return json_captions(file, images, "image_name", "text")
