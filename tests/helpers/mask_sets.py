"""Small sets of images and masks, as converters read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcap.data.regions.run_length import decode

SIZE = (12, 8)  # width and height


def drawn(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """Return a mask of ``SIZE`` with a rectangle, ``[H, W]`` bool."""
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    mask[top:bottom, left:right] = True
    return mask


LIVER, SPLEEN, PART = drawn(0, 0, 5, 4), drawn(6, 2, 10, 6), drawn(0, 6, 3, 8)


def write_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    """Write a grey image; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 90).save(path)


def write_values(path: Path, values: np.ndarray) -> None:
    """Write a picture with these values; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def masks_of(row: dict[str, Any]) -> dict[str, np.ndarray | None]:
    """Return the masks of a row by their labels."""
    return {entry["label"]: None if entry["mask"] is None else decode(entry["mask"]) for entry in row["masks"]}


CASE = "ct_00--CTSpine1K--Case_1--z_0288"


def write_mecovqa(folder: Path, split: str) -> None:
    """Write MeCoVQA's three files of a split: one image, a region, and a mask of two instances that is not merged."""
    image = {"image": f"images/{CASE}.png"}
    write_image(folder / f"SAMed2Dv1/images/{CASE}.png")
    write_values(folder / f"SAMed2Dv1/masks/{CASE}--0005_000.png", 255 * LIVER)
    write_values(folder / f"SAMed2Dv1/masks/{CASE}--0005_001.png", 255 * PART)
    write_values(folder / f"SAMed2Dv1/masks/{CASE}--0006_000.png", 255 * SPLEEN)
    region, merged = f"masks/{CASE}--0006_000.png", f"masks_merged/{CASE}--0005_merged.png"
    rows = {
        "Complex_VQA": [("Is it a CT?", "Yes", {}), ("What is shown?", "A spine.", {"answer_type": "open"})],
        "Region_VQA": [(f"What is <region>{region}</region>?", "The spleen.", {})],
        "Grounding": [
            ("Segment the liver.", f"<SEG><mask>{merged}</mask>", {}),
            ("Segment the spleen.", f"It is <SEG><mask>{region}</mask>.", {}),
            ("Segment the heart.", f"<SEG><mask>masks_merged/{CASE}--0009_merged.png</mask>", {}),
        ],
    }
    for name, records in rows.items():
        made = []
        for asked, answered, more in records:
            turns = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": answered}]
            made.append(image | {"conversations": turns} | more)
        path = folder / f"MeCoVQA/MeCoVQA_{name}_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made), encoding="utf-8")


def write_mask_sets(folder: Path) -> None:
    """Write a small set for each converter of masks: ``organs``, ``a_128.npz``, and SLAKE's and MeCoVQA's layouts."""
    write_image(folder / "organs/images/a.png")
    write_values(folder / "organs/masks/liver/a.png", LIVER)
    np.savez(
        folder / "a_128.npz", train_images=np.zeros((1, 8, 12), np.uint8), train_label=LIVER[None].astype(np.uint8)
    )
    write_image(folder / "Slake1.0/imgs/xmlab0/source.jpg")
    write_values(folder / "Slake1.0/imgs/xmlab0/mask.png", LIVER)
    (folder / "Slake1.0/mask.txt").write_text("1:Liver\n", encoding="utf-8")
    rows = [{"img_name": "xmlab0/source.jpg", "question": "Which?", "answer": "CT", "q_lang": "en"}]
    (folder / "Slake1.0/train.json").write_text(json.dumps(rows), encoding="utf-8")
    write_mecovqa(folder, "train")
