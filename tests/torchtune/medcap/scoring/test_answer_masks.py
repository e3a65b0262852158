import json

import numpy as np
import pytest
from PIL import Image

from helpers.mask_rows import mask_of, region_of
from medcap.data.regions.region import BoxShape, Region
from medcap.data.regions.run_length import encode
from medcap.errors import UserError
from medcap.scoring.answers import read_answers
from medcap.scoring.protocols.registry import make_protocol

HALF = mask_of("##..", "##..")
LEFT = mask_of("#...", "#...")


@pytest.fixture
def write(tmp_path):
    folder = tmp_path / "answers"
    (folder / "masks").mkdir(parents=True)
    for name, mask in (("half", HALF), ("left", LEFT), ("empty", HALF & False)):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{name}.png")
    (tmp_path / "out.png").write_bytes((folder / "masks/half.png").read_bytes())

    def write(*rows):
        path = folder / "answers.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def test_files_beside_the_file_and_run_lengths(write):
    one = {"question_id": "a", "image": "ct_1.png", "reference_mask": "masks/half.png", "label": "liver"}
    path = write(
        {**one, "prediction_mask": "masks/left.png"},
        {**one, "question_id": "b", "prediction_mask": encode(LEFT)},
        {**one, "question_id": "c", "reference_mask": None, "prediction_mask": "masks/empty.png"},
    )
    answers = read_answers(path)
    assert [answer.question.masks for answer in answers] == [(region_of(HALF),), (region_of(HALF),), (None,)]
    assert [answer.question.mask_labels for answer in answers] == [("liver",)] * 3
    assert [answer.outputs.masks for answer in answers] == [(region_of(LEFT),)] * 2 + [(region_of(HALF & False),)]
    scores = make_protocol("masks").score(answers).scores
    assert scores["per_class.liver.mean_dice"] == scores["mean_dice"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_lists_of_regions(write):
    row = {
        "question_id": "a",
        "prediction": "It is <SEG>.",
        "reference_masks": [
            {"mask": "masks/half.png", "value": 255, "label": "liver"},
            {"mask": None, "label": "spleen"},
            [0, 0, 2, 1],
        ],
        "masks": [{"mask": encode(HALF), "label": "liver"}, None],
        "image_size": [4, 2],
        "class": "organ",
    }
    (answer,) = read_answers(write(row))
    assert answer.question.masks == (region_of(HALF, "liver"), None, Region(BoxShape((0.0, 0.0, 2.0, 1.0))))
    assert answer.question.mask_labels == ("liver", "spleen", "organ")
    assert answer.outputs.masks == (region_of(HALF, "liver"), None)
    assert answer.prediction == "It is <SEG>."


def test_bad_masks_are_counted_and_lose_no_row(write):
    good = {"image": "ct_1.png", "reference_mask": "masks/half.png", "prediction_mask": "masks/half.png"}
    rows = [
        good,
        good | {"prediction_mask": "masks/gone.png"},
        good | {"prediction_mask": "../out.png"},
        good | {"prediction_mask": {"size": [2, 4], "counts": "72"}},
        good | {"prediction_mask": {"size": [2, 4]}},
        good | {"prediction_mask": 7},
        good | {"prediction_mask": None},
        good | {"reference_mask": "masks/gone.png"},
        good | {"reference_mask": "../out.png"},
        {"image": "ct_1.png", "prediction_mask": "masks/half.png"},
        {"reference_masks": "masks/half.png", "masks": []},
        {"reference_masks": ["masks/half.png"], "masks": "masks/half.png"},
    ]
    answers = read_answers(write(*({"question_id": str(number), **row} for number, row in enumerate(rows))))
    for name, head in (("medplib_seg", "miou"), ("masks", "mean_dice")):
        result = make_protocol(name).score(answers)
        assert result.scores[head] == pytest.approx(1 / 12)
        counts = {"n": 12, "failures": 11, "unreadable_references": 4, "unparsed": 6}
        assert {key: result.counts[key] for key in counts} == counts
        assert all("\n" not in notice for notice in result.notices)
        assert "7: image masks/gone.png does not exist" in result.notices[0]
        assert "8: image ../out.png lies outside the allowed folders" in result.notices[0]


def test_a_row_of_words_beside_rows_of_masks(write):
    path = write(
        {"question_id": "a", "reference": "lung", "prediction": "lung", "masks": None, "reference_masks": None},
        {"question_id": "b", "reference_mask": "masks/half.png", "prediction_mask": "masks/half.png"},
    )
    words, mask = read_answers(path)
    assert (words.question.masks, words.outputs.masks, words.question.problem) == (None, None, None)
    assert (mask.prediction, mask.failed) == ("", False)


def test_several_values_of_a_file_are_inside_and_a_notice_says_so(write):
    path = write(
        {"question_id": "a", "reference_mask": "masks/half.png", "prediction_mask": "masks/grey.png"},
        {"question_id": "b", "reference_mask": "masks/half.png", "masks": [{"mask": "masks/grey.png", "value": 3}]},
        {"question_id": "c", "reference_mask": "masks/half.png", "prediction_mask": "masks/half.png"},
    )
    Image.fromarray(np.array([[3, 3, 90, 0], [3, 3, 0, 0]], np.uint8)).save(path.parent / "masks" / "grey.png")
    answers = read_answers(path)
    for name, score in (("medplib_seg", "miou"), ("masks", "mean_iou")):
        result = make_protocol(name).score(answers)
        assert result.scores[score] == pytest.approx((4 / 5 + 1 + 1) / 3)
        assert result.counts["several_values"] == 1
        assert result.notices[0] == (
            "rows with a mask file of several values above 0, all of which are inside: name one by 'value' where they"
            " are classes, and save a map of probabilities as 0 and 1: 1 of 3 (the first is a)"
        )


def test_a_file_of_probabilities_is_counted_as_no_mask(write):
    path = write(
        {"question_id": "a", "reference_mask": "masks/half.png", "prediction_mask": "masks/map.tif"},
        {"question_id": "b", "reference_mask": "masks/half.png", "prediction_mask": "masks/whole.tif"},
    )
    Image.fromarray(HALF * np.float32(0.7)).save(path.parent / "masks" / "map.tif")
    Image.fromarray(HALF * np.float32(255)).save(path.parent / "masks" / "whole.tif")
    result = make_protocol("masks").score(read_answers(path))
    assert (result.scores["mean_dice"], result.counts["unparsed"]) == (0.5, 1)
    assert "masks/map.tif holds numbers that are not whole: save which pixels are inside" in result.notices[0]


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"label": 0}, "0"), ({"class": 3}, "3"), ({"phrase": "liver"}, "liver"), ({"label": None, "class": "a"}, "a")],
)
def test_what_names_the_class_of_a_row(write, fields, name):
    row = {"question_id": "a", "reference_mask": "masks/half.png", "prediction_mask": "masks/half.png", **fields}
    listed = {"question_id": "b", "reference_masks": [{"mask": "masks/half.png", "label": fields.get("label")}]}
    answers = read_answers(write(row, {**fields, **listed, "masks": []}))
    assert [answer.question.mask_labels for answer in answers] == [(name,), (name,)]
    assert make_protocol("masks").score(answers).scores[f"per_class.{name}.mean_dice"] == 0.5


@pytest.mark.parametrize("field", ["image", "images", "image_path"])
def test_the_modality_is_that_of_the_image_however_it_is_named(write, field):
    name = "images/mr_00--a.png"
    row = {"reference_mask": "masks/half.png", "prediction_mask": "masks/half.png"}
    answers = read_answers(write({**row, field: name}, {**row, field: [name]}))
    assert [answer.question.image_paths for answer in answers] == [[name], [name]]
    assert make_protocol("medplib_seg").score(answers).scores["per_modality.mr.miou"] == 1.0


def test_nulls_in_place_of_masks(write):
    box = {"reference_boxes": [[0, 0, 2, 2]], "boxes": [[0, 0, 2, 2]], "image_size": [4, 2]}
    path = write(
        {"question_id": "a", "masks": None, "prediction_mask": None, "reference_mask": "masks/half.png"},
        {"question_id": "b", "masks": None, "reference_masks": None, **box},
        {"question_id": "c", "masks": None, "reference_masks": None},
    )
    missing, boxes, nothing = read_answers(path)
    assert (missing.failed, missing.outputs.masks) == (True, None)
    assert (boxes.question.problem, boxes.question.masks) == (None, None)
    assert nothing.question.problem == "there is no 'reference_mask' to compare with"


def test_a_file_without_one_readable_reference_is_refused(write):
    path = write({"question_id": "a", "reference_mask": "gone.png", "prediction_mask": "masks/half.png"})
    with pytest.raises(
        UserError, match=r"answers\.jsonl: no reference can be read; row 0: image gone\.png does not exist"
    ):
        read_answers(path)
