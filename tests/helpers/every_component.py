"""A workspace for a model with every component of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.workspace import Workspace

# What a small configuration says of each component beside tower and projector: a new one needs a line here.
OPTIONS = {
    "llm_lora": "llm_lora.rank=4",
    "words": "words=[<SEG>, <region>, </region>, <mark>, <BOX>]",
    "box_decoder": "box_decoder.width=16",
    "mask_decoder": "mask_decoder.width=16",
    "region_encoder": "region_encoder=medcap.models.mask_pooling",
}
MODEL = (*OPTIONS.values(), "dataset.box_answer=head")


def component_workspace(folder: Path, **llm: Any) -> Workspace:
    """A workspace whose records hold the words, and boxes, masks and regions for those with an image.

    Args:
        folder: where.
        llm: as for ``Workspace``.
    """
    workspace = Workspace(folder, **llm)
    rows = workspace.records()
    for row in rows:
        row["conversations"][0]["value"] += " <mark>"
        row["conversations"][1]["value"] += " <region>"
        if "image" in row:
            row["conversations"][1]["value"] += " <BOX> <SEG>"
            row["boxes"] = [[4, 2, 20, 12]]
            row["masks"] = [{"box": [4, 2, 20, 12]}]
            row["conversations"][0]["value"] += " <region></region>"
            row["regions"] = [[4, 2, 20, 12]]
    workspace.write_data("train.json", rows)
    return workspace
