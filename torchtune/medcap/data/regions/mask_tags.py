"""The names of mask files that stand in MedPLIB's answers, behind the word of each mask."""

from __future__ import annotations

import re

# Source: MedPLIB, datasets/LazySupervisedDataset.py, extract_masks_fun.
MASK_TAG = re.compile(r"<mask>(.*?)</mask>", re.DOTALL)


def take_mask_files(text: str) -> tuple[str, list[str]]:
    """Take the ``<mask>file.png</mask>`` of MedPLIB's rows off an answer.

    Returns:
        The text without them, and the names of the files in their order.
    """
    return MASK_TAG.sub("", text), [path.strip() for path in MASK_TAG.findall(text)]
