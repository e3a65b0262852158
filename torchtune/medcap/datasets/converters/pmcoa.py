"""PMC-OA: captions of the figures of open-access articles."""

from __future__ import annotations

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.captions import json_captions


class PmcOa(Converter):
    """``train.jsonl`` of rows with ``image`` and ``caption``, and the folder of its subfigures."""

    name = "pmcoa"
    converts = "PMC-OA: captions of article figures"
    download = (
        "download axiong/pmc_oa from the hub to pmc_oa: train.jsonl, and its images unpacked to"
        " pmc_oa/caption_T060_filtered_top4_sep_v0_subfigures"
    )
    output = "pmcoa_train.json"
    captions = True

    def examples(self, folders: Folders) -> Examples:
        file = self.need(folders, "pmc_oa/train.jsonl")
        images = self.need_images(folders, "pmc_oa/caption_T060_filtered_top4_sep_v0_subfigures")
        return json_captions(file, images, "image", "caption")
