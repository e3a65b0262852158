import json

import numpy as np
import pytest
from PIL import Image

from medcap.data.images.reference import ImageRef
from medcap.data.outputs import Outputs
from medcap.data.regions.region import BoxShape, RunLength
from medcap.data.regions.run_length import decode, encode
from medcap.errors import UserError
from medcap.evaluation.tasks.regions.pixel_grounding import PixelGroundingTask
from medcap.scoring.protocols.registry import make_protocol
from medcap.scoring.question import Answer

MASK = np.zeros((4, 6), bool)
MASK[1:3, 2:5] = True
TURNS = [{"from": "human", "value": "<image>\nOutline the liver."}, {"from": "gpt", "value": "liver <SEG>."}]
TAGGED = [TURNS[0], {"from": "gpt", "value": "It is here: <SEG><mask>masks/a.png</mask>"}]


@pytest.fixture
def folder(tmp_path):
    Image.new("L", (6, 4)).save(tmp_path / "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(MASK.astype(np.uint8) * 255).save(tmp_path / "masks/a.png")
    Image.fromarray(MASK.astype(np.uint8) * 3).save(tmp_path / "masks/values.png")
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "masks/empty.png")
    Image.fromarray(np.ones((3, 6), np.uint8)).save(tmp_path / "masks/small.png")
    return tmp_path


def load(folder, *rows):
    lines = "".join(json.dumps({"image": "a.png"} | row) + "\n" for row in rows)
    (folder / "pixel_grounding.jsonl").write_text(lines, encoding="utf-8")
    return PixelGroundingTask().load(folder)


def pixels(region):
    assert isinstance(region.shape, RunLength)
    return decode({"size": list(region.shape.size), "counts": region.shape.counts})


def test_masks_of_every_form_are_read(folder):
    rows = load(
        folder,
        {"phrase": "liver", "masks": ["masks/a.png"], "patient": "p1", "question_id": "q", "modality": "CT"},
        {"phrase": "liver", "masks": [{"mask": "masks/values.png", "value": 3}], "label": "organ"},
        {"question": "Find it.", "masks": [encode(MASK)]},
        {"conversations": TURNS, "masks": [{"mask": "masks/a.png", "label": "liver"}]},
        {"conversations": TAGGED},
    ).rows
    first = rows[0]
    assert (first.id, first.text, first.references, first.image_size) == (
        "q",
        "Segment the liver.",
        ("liver <SEG>",),
        (6, 4),
    )
    assert first.image == ImageRef.of(folder / "a.png")
    assert first.meta == {"phrase": "liver", "patient": "p1", "modality": "CT"}
    assert [row.mask_labels for row in rows] == [("liver",), ("organ",), (), ("liver",), ()]
    assert all((pixels(row.masks[0]) == MASK).all() and row.problem is None for row in rows)
    assert [row.references[0] for row in rows[2:]] == ["<SEG>", "liver <SEG>.", "It is here: <SEG>"]


def test_boxes_absent_objects_several_masks_and_words(folder):
    rows = load(
        folder,
        {"phrase": "ring", "masks": []},
        {"phrase": "ring", "masks": [{"mask": None, "label": "ring"}]},
        {"phrase": "ring", "masks": ["masks/empty.png"]},
        {"question": "Both?", "masks": [{"mask": "masks/a.png", "label": "a"}, {"box": [0, 0, 2, 2], "label": "b"}]},
        {"question": "What is it?", "answer": "CT"},
    ).rows
    assert [(row.masks[0], row.mask_labels, row.references) for row in rows[:2]] == [(None, ("ring",), ("none",))] * 2
    assert not pixels(rows[2].masks[0]).any()
    assert rows[3].references == ("a <SEG>, b <SEG>",)
    assert rows[3].masks[1].shape == BoxShape((0.0, 0.0, 2.0, 2.0))
    assert (rows[4].masks, rows[4].references) == (None, ("CT",))


def test_answers_are_scored_by_both_protocols(folder):
    rows = load(folder, {"phrase": "liver", "masks": ["masks/a.png"]}, {"phrase": "ring", "masks": []}).rows
    answers = [Answer(row, "x", Outputs(None, (rows[0].masks[0],))) for row in rows]
    scores = make_protocol("masks").score(answers).scores
    assert (scores["mean_dice"], scores["false_positive_rate"]) == (0.5, 1.0)
    assert (scores["per_class.liver.mean_dice"], scores["per_class.ring.mean_dice"]) == (1.0, 0.0)
    assert make_protocol("medplib_seg").score(answers).scores["miou"] == 0.5


def test_bad_masks_stay_as_failures(folder):
    rows = load(
        folder,
        {"phrase": "x", "masks": ["masks/small.png"]},
        {"phrase": "x", "masks": ["masks/none.png"]},
        {"phrase": "x", "masks": ["/etc/hostname"]},
        {"phrase": "x", "masks": [{"box": [10, 10, 20, 20]}]},
        {"conversations": TURNS, "masks": ["masks/a.png", "masks/a.png"]},
        {"phrase": "x", "masks": [{"mask": 3}]},
        {"phrase": "x", "masks": ["masks/a.png"]},
    ).rows
    problems = [row.problem or "" for row in rows]
    assert "has 6 x 3 pixels and its image 6 x 4" in problems[0]
    assert "none.png does not exist" in problems[1]
    assert "outside the allowed folders" in problems[2]
    assert "holds no pixel" in problems[3]
    assert problems[4] == "1 <SEG> in its answer but 2 masks: give each word its mask"
    assert "run-length" in problems[5]
    assert problems[6] == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"masks": []}, "there is no 'question' and no 'phrase' to ask for"),
        ({"phrase": "x"}, "there is neither 'masks' nor 'reference' to compare with"),
        ({"conversations": TAGGED, "masks": []}, "it has 'masks' and <mask> in its answer"),
        ({"phrase": "x", "masks": [], "image_size": "big"}, "'image_size' must be"),
    ],
)
def test_a_row_that_cannot_be_understood_is_named(folder, row, message):
    with pytest.raises(UserError, match=rf"pixel_grounding.jsonl, row 1: {message}"):
        load(folder, {"phrase": "liver", "masks": []}, row)
