"""A folder of images and masks, from the converter to the scores."""

import json

import numpy as np
import pytest

from helpers.mask_sets import write_values
from helpers.workspace import Workspace
from medcap.cli import main


@pytest.mark.slow
def test_a_folder_is_converted_learnt_and_scored(tmp_path):
    workspace = Workspace(tmp_path / "work")
    folder = tmp_path / "organs"
    for number in range(4):
        values = np.zeros((24, 32), np.uint8)
        values[4:12, 4 + number : 14 + number] = 200
        write_values(folder / f"images/{number}.png", values)
        write_values(folder / f"masks/liver/{number}.png", values)
        if number % 2:
            write_values(folder / f"masks/spleen/{number}.png", np.flipud(values))
    out, roots = tmp_path / "rows", f"[{folder}]"
    options = ["--absent", "1", "--absent-answer", "mask", "--question", "Segment the {}.", "--test-share", "0.5"]
    assert main(["prepare", "masks", "--data-dir", str(folder), "--out", str(out), *options]) in (0, None)
    run = workspace.train(
        "words=[<SEG>]",
        "mask_decoder.width=16",
        "trainable=[vision,projector,words,mask_decoder]",
        f"dataset.source={out}/masks_train.jsonl",
        f"dataset.image_roots={roots}",
        "max_steps_per_epoch=2",
    )
    workspace.generate(
        f"vision_checkpoint={run}",
        "test_pixel_grounding=true",
        f"dataset_source={out}/masks_test.jsonl",
        f"image_roots={roots}",
        "controls=[prior_mask,exchanged_question]",
        f"output_dir={tmp_path}/scores",
    )
    found = json.loads((tmp_path / "scores/pixel_grounding/metrics.json").read_text(encoding="utf-8"))
    assert set(found["protocols"]) == {"masks", "medplib_seg"}
    assert set(found["protocols"]["masks"]["controls"]) == {"prior_mask", "exchanged_question"}
    lines = (tmp_path / "scores/pixel_grounding/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    wanted = [json.loads(line)["reference_masks"] for line in lines]
    assert [[(entry["label"], entry["mask"] is None) for entry in masks] for masks in wanted] == [
        [("liver", False)],
        [("spleen", True)],
        [("liver", False)],
        [("spleen", False)],
    ]
