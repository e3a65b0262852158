"""The files of scenes: pictures, masks, rows to train on and to ask."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcap.data.boxes.box import boxes_from_json
from medcap.data.regions.draw import draw_region
from medcap.data.regions.region import MaskFile, regions_from_json
from medcap.datasets.phantoms.drawing import bounding_box
from medcap.datasets.phantoms.scene_files import write_scenes
from medcap.errors import UserError


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "set"
    made = write_scenes(folder, 4, seed=3, size=(96, 64), lesions=(2, 3))
    assert made.written and made.images == 4
    assert made.rows == {"DET": 4, "REC": 13, "REG": 9, "VQA": 28, "CAP": 4, "SEG": 13, "RVQA": 9}
    return folder


def test_the_records_hold_the_truth_of_the_pictures(scenes):
    records = _lines(scenes / "records.jsonl")
    assert [record["id"] for record in records] == ["3-000000", "3-000001", "3-000002", "3-000003"]
    for record in records:
        assert Image.open(scenes / record["image"]).size == (96, 64) == tuple(record["image_size"])
        for lesion in record["lesions"]:
            mask = np.asarray(Image.open(scenes / lesion["mask"])) == 255
            assert lesion["box"] == bounding_box(mask)
    assert records[0]["lesions"][0]["kind"] == "ring" and records[0]["lesions"][0]["box"] == [52, 29, 69, 46]


def test_a_training_row_has_a_word_for_each_box_and_the_boxes_in_pixels(scenes):
    rows = _lines(scenes / "train_rec.jsonl")
    assert rows[0] == {
        "id": "3-000000-01-box",
        "image": "images/000000.png",
        "conversations": [
            {"from": "human", "value": "<image>\nFind the ring."},
            {"from": "gpt", "value": "The ring is at <BOX>."},
        ],
        "boxes": [{"box": [52, 29, 69, 46], "label": "ring"}],
    }
    assert rows[2]["boxes"] == [] and rows[2]["conversations"][1]["value"].startswith("There is no ")
    for task in ("det", "rec", "reg", "vqa", "cap"):
        for row in _lines(scenes / f"train_{task}.jsonl"):
            human, gpt = (turn["value"] for turn in row["conversations"])
            assert gpt.count("<BOX>") == len(row.get("boxes", ())) and "<BOX>" not in human
            assert ("boxes" in row) == (task in ("det", "rec"))


def test_a_lesions_mask_stands_for_the_word_and_null_for_that_of_an_absent_one(scenes):
    shown, *_, absent = _lines(scenes / "train_seg.jsonl")
    asked, *_, asked_absent = _lines(scenes / "test_seg.jsonl")
    assert shown["conversations"][1]["value"] == asked["reference"] == "ring <SEG>."
    assert shown["masks"] == asked["masks"] == [{"mask": "masks/000000-ring.png", "label": "ring"}]
    kind = asked_absent["phrase"]
    assert (asked_absent["reference"], asked_absent["masks"]) == (f"{kind} not visible.", [])
    assert absent["conversations"][1]["value"] == f"{kind} <SEG>."
    assert absent["masks"] == [{"mask": None, "label": kind}]


def test_a_question_names_a_lesion_by_each_kind_of_region_in_turn(scenes):
    rows, asked = _lines(scenes / "train_rvqa.jsonl"), _lines(scenes / "test_rvqa.jsonl")
    kinds = ["mask", "box", "point", "polygon"]
    for row, question in zip(rows, asked, strict=True):
        assert row["id"] == question["question_id"] and row["regions"] == question["regions"]
        assert row["conversations"][0]["value"] == f"<image>\n{question['question']}"
        assert question["question"].count("<region></region>") == 1 == len(question["regions"])
        assert row["conversations"][1]["value"] == question["reference"] == question["phrase"]
        mask = np.asarray(Image.open(scenes / f"masks/{row['image'][7:13]}-{question['phrase']}.png")) > 0
        (region,) = regions_from_json(row["regions"])
        if isinstance(region.shape, MaskFile):
            assert region.shape.path.endswith(f"{question['phrase']}.png")
        else:
            drawn = draw_region(region, (96, 64))
            left, top, right, bottom = bounding_box(mask)
            assert (drawn & mask).sum() > 0.6 * mask.sum()
            assert drawn.sum() == drawn[top:bottom, left:right].sum() > 0.5 * (right - left) * (bottom - top)
    used = [next(iter(row["regions"][0])) for row in rows]
    assert set(used) == set(kinds) and used[0] != used[1]


def test_an_evaluation_row_asks_the_same_with_its_boxes_written_out(scenes):
    assert _lines(scenes / "test_rec.jsonl")[0] == {
        "question_id": "3-000000-01-box",
        "image": "images/000000.png",
        "image_size": [96, 64],
        "question": "Find the ring.",
        "reference": "The ring is at [541, 453, 718, 718].",
        "task": "REC",
        "phrase": "ring",
        "boxes": [{"box": [52, 29, 69, 46], "label": "ring"}],
        "answer_type": "OPEN",
        "options": [],
        "modality": "lumascope",
        "question_type": "box",
    }
    asked = _lines(scenes / "test_reg.jsonl")[0]
    assert asked["question"] == "What is the lesion in [541, 453, 718, 718]?" and asked["reference"] == "ring"
    for task in ("det", "rec", "reg", "vqa", "cap"):
        for trained, asked in zip(
            _lines(scenes / f"train_{task}.jsonl"), _lines(scenes / f"test_{task}.jsonl"), strict=True
        ):
            assert trained["id"] == asked["question_id"] and trained.get("boxes") == asked.get("boxes")
            assert trained["conversations"][0]["value"] == f"<image>\n{asked['question']}"
            assert "<BOX>" not in asked["reference"]
            assert len(boxes_from_json(asked.get("boxes", []), (96, 64))) == len(asked.get("boxes", []))


def test_short_answers_name_absent_lesions_by_a_null_box(tmp_path):
    write_scenes(tmp_path / "short", 1, seed=3, size=(96, 64), short=True)
    absent, asked = (
        _lines(tmp_path / "short" / "train_rec.jsonl")[-1],
        _lines(tmp_path / "short" / "test_rec.jsonl")[-1],
    )
    kind = asked["phrase"]
    assert absent["conversations"][1]["value"] == f"{kind} <BOX>."
    assert absent["boxes"] == [{"box": None, "label": kind}]
    assert (asked["reference"], asked["boxes"]) == (f"{kind} not visible.", [])


def test_the_same_request_writes_the_same_bytes_and_then_nothing(scenes, tmp_path):
    other = tmp_path / "other"
    write_scenes(other, 4, seed=3, size=(96, 64), lesions=(2, 3))
    names = sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert sum(name.suffix == ".png" for name in names) == 13
    assert all((other / name).read_bytes() == (scenes / name).read_bytes() for name in names)
    again = write_scenes(other, 4, seed=3, size=(96, 64), lesions=(2, 3))
    assert not again.written and again.rows["REC"] == 13


def test_boxes_in_questions_have_the_notation_that_is_asked_for(tmp_path):
    write_scenes(tmp_path / "set", 1, seed=3, notation="coloninst")
    assert "{<" in _lines(tmp_path / "set" / "train_reg.jsonl")[0]["conversations"][0]["value"]
    assert "{<" in _lines(tmp_path / "set" / "test_rec.jsonl")[0]["reference"]


def test_a_folder_with_other_scenes_or_files_is_refused(scenes, tmp_path):
    with pytest.raises(UserError, match="another request"):
        write_scenes(scenes, 5, seed=3, size=(96, 64), lesions=(2, 3))
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="holds other files"):
        write_scenes(tmp_path, 1, seed=0)
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"count": 0}, "count"),
        ({"seed": -1}, "seed"),
        ({"size": (64, 8)}, "image_size"),
        ({"lesions": (4,)}, "lesions"),
        ({"notation": "words"}, "notation"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, key):
    with pytest.raises(UserError, match=f"^{key}:"):
        write_scenes(tmp_path / "set", **{"count": 1, "seed": 0, **arguments})
