import json

import pytest
from PIL import Image

from helpers.downloads import Downloads, write_slake_boxes
from medcap.data.boxes.box import Box
from medcap.data.images.reference import ImageRef
from medcap.datasets.converters.slake_boxes import SlakeBoxes
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.regions.grounding import GroundingTask
from medcap.scoring.replies.box_reply import reference_boxes

HALF = Box((0.1, 0.2, 0.5, 0.6))


def load(tmp_path, *rows):
    Image.new("L", (100, 50)).save(tmp_path / "a.png")
    (tmp_path / "grounding.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return GroundingTask().load(tmp_path)


def test_boxes_are_read_from_their_field_or_from_the_words(tmp_path):
    benchmark = load(
        tmp_path,
        {"image": "a.png", "phrase": "liver", "boxes": [[10, 10, 50, 30]], "patient": "p1", "question_id": "q"},
        {"image": "a.png", "question": "Find it.", "boxes": [[20, 20, 100, 60]], "image_size": [200, 100]},
        {"image": "a.png", "question": "Find it.", "reference": "{<10><10><50><30>}"},
        {"image": "a.png", "question": "Find it.", "reference": "<box>(100,200),(500,600)</box>", "task": "VG"},
        {"image": "a.png", "phrase": "ring", "boxes": []},
        {"image": "a.png", "phrase": "ring", "reference": "There is no ring."},
        {"image": "a.png", "question": "What is in {<1><1><2><2>}?", "answer": "liver", "task": "REG"},
        {"image": "a.png", "question": "Name all.", "boxes": [{"box": [10, 10, 50, 30], "label": "liver"}]},
    )
    first = benchmark.rows[0]
    assert (first.id, first.text, first.references) == ("q", "Where is the liver?", ("[100, 200, 500, 600]",))
    assert (first.image, first.image_size) == (ImageRef.of(tmp_path / "a.png"), (100, 50))
    assert first.meta == {"phrase": "liver", "patient": "p1"}
    boxes = [row.boxes for row in benchmark.rows]
    assert boxes == [(HALF,), (Box((0.1, 0.2, 0.5, 0.6)),), (HALF,), (HALF,), (), (), None, (Box(HALF.edges, "liver"),)]
    assert [row.references[0] for row in benchmark.rows[4:7]] == ["none", "There is no ring.", "liver"]


def test_pixels_in_words_are_those_of_image_size(tmp_path):
    turned = {"image": "a.png", "question": "What is in {<20><20><100><60>}?", "image_size": [200.0, 100.0]}
    rows = load(
        tmp_path,
        {**turned, "reference": "{<20><20><100><60>}", "task": "REC"},
        {**turned, "reference": "liver", "task": "REG"},
        {"image": "a.png", "phrase": "liver", "boxes": [10, 10, 50, 30]},
    ).rows
    assert [row.text for row in rows[:2]] == ["What is in {<10><10><50><30>}?"] * 2
    assert (rows[0].references, rows[0].boxes) == (("{<10><10><50><30>}",), (HALF,))
    assert (rows[1].references, rows[1].boxes) == (("liver",), None)
    assert rows[2].boxes == (HALF,)  # four numbers alone are one box


def test_a_reference_that_is_no_box_is_a_failure_and_not_an_absent_object(tmp_path):
    rows = load(
        tmp_path,
        {"image": "a.png", "phrase": "x", "reference": "{<10><10><50>}"},
        {"image": "a.png", "question": "Where?", "reference": "[400, 120, 1600, 216]"},
        {"image": "a.png", "question": "Where?", "reference": "{<300><10><350><30>}", "task": "REC"},
        {"image": "a.png", "question": "Describe.", "reference": "seen on slices [12, 13, 14]", "task": "CAP"},
    ).rows
    assert [row.problem for row in rows] == [
        "its reference holds '{<10><10><50>}', which is no box on the image",
        "its reference holds '[400, 120, 1600, 216]', which is no box on the image",
        "its reference holds '{<300><10><350><30>}', which is no box on the image",
        None,
    ]
    assert reference_boxes(rows[3]) is None  # words


def test_the_rows_of_a_converter_are_read(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_slake_boxes(downloads, [{"Nodule": [1, 2, 3, 4]}, {"Nodule": [11, 12, 3, 4]}], [{"Heart": [0, 0, 50, 50]}])
    (written,) = downloads.convert(SlakeBoxes(kinds=("REC", "DET", "REG"), absent=1))
    rows = GroundingTask().load(written.path, LoadOptions(image_roots=[downloads.folder])).rows
    assert [(row.text, row.references[0], row.boxes and len(row.boxes)) for row in rows[:4]] == [
        ("Where is the nodule?", "The nodule lies at [10, 40, 40, 120] and [110, 240, 140, 320].", 2),
        ("Where is the heart?", "There is no heart.", ()),
        ("What is in the box [10, 40, 40, 120]?", "nodule", None),
        ("What is in the box [110, 240, 140, 320]?", "nodule", None),
    ]
    assert rows[4].references == ("nodule [10, 40, 40, 120], nodule [110, 240, 140, 320]",)
    assert rows[0].boxes == (Box((0.01, 0.04, 0.04, 0.12)), Box((0.11, 0.24, 0.14, 0.32)))
    assert all(row.problem is None for row in rows)


def test_a_null_box_is_of_what_is_absent(tmp_path):
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": "ring <BOX>, dot <BOX>"}]
    row = {"image": "a.png", "conversations": turns, "boxes": [{"box": None, "label": "ring"}, [0, 0, 50, 50]]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (read,) = GroundingTask().load(tmp_path / "rows.jsonl", LoadOptions()).rows
    assert read.references == ("ring not visible, dot [0, 0, 500, 999]",)
    assert read.boxes == (Box((0.0, 0.0, 0.5, 1.0)),)


def test_bad_boxes_and_missing_images_stay_as_failures(tmp_path):
    bad = [[1, 1, 1, 9], [float("nan"), 1, 2, 2], [200, 1, 300, 9]]
    benchmark = load(
        tmp_path,
        *({"image": "a.png", "phrase": "x", "boxes": [box]} for box in bad),
        {"image": "a.png", "phrase": "x", "boxes": [[1, 1, 2, 2]], "image_size": [50, 50]},
        {"image": "b.png", "phrase": "x", "boxes": [[1, 1, 2, 2]]},
        {"image": "a.png", "phrase": "x", "boxes": [[1, 1, 9, 9]]},
    )
    problems = [row.problem for row in benchmark.rows]
    assert problems[:3] == ["a box has no area", "a box is not four numbers", "a box lies outside its image"]
    assert problems[3].startswith("'image_size' is 50 x 50, but the image is 100 x 50, which is another shape")
    assert "b.png does not exist" in problems[4]
    assert problems[5] is None
    assert "5 of 6 rows cannot be asked and count as failures" in benchmark.notices[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "a row must be an object, not list"),
        ({"phrase": "x", "boxes": []}, "'image' must name the row's one image"),
        ({"image": "a.png", "boxes": []}, "there is no 'question' and no 'phrase' to ask for"),
        ({"image": "a.png", "phrase": "x"}, "there is neither 'boxes' nor 'reference' to compare with"),
        ({"image": "a.png", "phrase": "x", "boxes": [], "image_size": "big"}, "'image_size' must be"),
    ],
)
def test_a_row_that_cannot_be_understood_is_named(tmp_path, row, message):
    with pytest.raises(UserError, match=rf"grounding.jsonl, row 1: {message}"):
        load(tmp_path, {"image": "a.png", "phrase": "liver", "boxes": []}, row)
