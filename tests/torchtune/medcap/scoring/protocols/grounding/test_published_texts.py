import json

import pytest

from medcap.errors import UserError
from medcap.scoring.answers import read_answers
from medcap.scoring.protocols.registry import make_protocol


def score(tmp_path, protocol, *rows):
    path = tmp_path / "answers.jsonl"
    shared = {"question": "Where is the polyp?", "image": "ct_0.png", "task": "REC"}
    path.write_text("".join(json.dumps({**shared, **row}) + "\n" for row in rows), encoding="utf-8")
    return make_protocol(protocol).score(read_answers(path))


SIZE = {"image_size": [100, 50]}
REFERENCE = {"reference_boxes": [[0, 0, 9, 9]]}


def test_colongpt_scores_boxes_that_are_fields(tmp_path):
    result = score(
        tmp_path,
        "colongpt",
        {**REFERENCE, "boxes": [[0, 0, 9, 18]], **SIZE},
        {**REFERENCE, "boxes": [[5, 5, 14, 14]]},  # without a size
        {"reference": "{<0><0><9><9>}", "boxes": [[0, 0, 9, 9]], **SIZE},
        {**REFERENCE, "prediction": "{<0><0><9><9>}", **SIZE},
        {**REFERENCE, "boxes": [[0, 0, 9, 9], [1, 1, 2, 2]], **SIZE},  # eight numbers
        {**REFERENCE, "boxes": [[0, 0, 9, 9], [1, 1, 2]], **SIZE},  # seven
        {**REFERENCE, "boxes": [], **SIZE},
        {**REFERENCE, "prediction": "There.", "boxes": [[0, 0, 9, 9]], **SIZE},  # words are what the program reads
    )
    assert [row["rec.mean_iou"] for row in result.rows] == [100 / 190, 25 / 175, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert result.counts["rec.unparsed"] == 4
    assert not any("references" in notice for notice in result.notices)


def test_bird_vg_scores_boxes_that_are_fields(tmp_path):
    text = "<box>(0,0),(100,200)</box>"
    result = score(
        tmp_path,
        "bird_vg",
        {"reference_boxes": [[0, 0, 10, 10]], "boxes": [[0, 0, 10, 6]], **SIZE},
        {"reference": text, "boxes": [[0, 0, 10, 10]], **SIZE},
        {"reference_boxes": [[0, 0, 10, 10]], "prediction": text, **SIZE},
        {"reference_boxes": [[0, 0, 10, 10]], "boxes": [[0, 0, 10, 10], [1, 2, 3]], **SIZE},
        {"reference_boxes": [[0, 0, 10, 10]], "boxes": [[0, 0, 4, 10]], **SIZE},
    )
    assert [row["hits"] for row in result.rows] == [1, 1, 1, 1, 0]
    with pytest.raises(UserError, match=r"row 0: its boxes are fields in pixels .* give the row its 'image_size'"):
        score(tmp_path, "bird_vg", {"reference_boxes": [[0, 0, 10, 10]], "boxes": [[0, 0, 10, 10]]})
