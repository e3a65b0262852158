import pytest

from helpers.downloads import Downloads, left_out, rows_of, said, write_slake_boxes
from medcap.datasets.conversion.writing import MISSING
from medcap.datasets.converters.slake_boxes import SlakeBoxes
from medcap.errors import UserError

LUNGS = [{"Left Lung": [10.0, 5.0, 20.0, 30.0]}, {"Nodule": [1, 2, 3, 4]}, {"Nodule": [11, 12, 3, 4]}]


@pytest.fixture
def downloads(tmp_path):
    return Downloads(tmp_path / "datasets")


def test_an_object_is_a_question_and_all_its_boxes_are_the_answer(downloads):
    write_slake_boxes(downloads, LUNGS)
    (written,) = downloads.convert(SlakeBoxes())
    assert written.path.name == "slake-boxes_train.jsonl"
    first, second = rows_of(written)
    del first["meta"]
    assert first == {
        "conversations": [
            {"from": "human", "value": "\u2460" * 50 + "\n\nWhere is the left lung?"},
            {"from": "gpt", "value": "The left lung lies at <BOX>."},
        ],
        "image": "xmlab0/source.jpg",
        "task": "REC",
        "phrase": "left lung",
        "modality": "CT",
        "organ": "Lung",
        "image_size": [100, 50],
        "boxes": [[10.0, 5.0, 30.0, 35.0]],
    }
    assert said(second) == ["<image>\n\nWhere is the nodule?", "The nodule lies at <BOX> and <BOX>."]
    assert second["boxes"] == [[1.0, 2.0, 4.0, 6.0], [11.0, 12.0, 14.0, 16.0]]


def test_numbers_as_text_several_boxes_of_a_label_and_no_label(downloads):
    objects = [{"Liver": ["10", "5", "20.0", "30"]}, {"Nodule": [[1, 2, 3, 4], [11, 12, 3, 4]]}, {" ": [1, 2, 3, 4]}]
    write_slake_boxes(downloads, objects)
    (written,) = downloads.convert(SlakeBoxes())
    assert [(row["phrase"], row["boxes"]) for row in rows_of(written)] == [
        ("liver", [[10.0, 5.0, 30.0, 35.0]]),
        ("nodule", [[1.0, 2.0, 4.0, 6.0], [11.0, 12.0, 14.0, 16.0]]),
    ]
    assert left_out(written) == {"an object has no name": 1}


@pytest.mark.parametrize(
    ("notation", "answer"),
    [
        ("coloninst", "{<10><5><30><35>}"),
        ("qwen", "<box>(100,100),(300,700)</box>"),
        ("shares", "[0.1000, 0.1000, 0.3000, 0.7000]"),
        ("thousandths", "[100, 100, 300, 700]"),
    ],
)
def test_boxes_are_written_into_the_words_in_any_notation(downloads, notation, answer):
    write_slake_boxes(downloads, LUNGS[:1])
    (written,) = downloads.convert(SlakeBoxes(box_format=notation, question="Find: {}"))
    (row,) = rows_of(written)
    assert said(row) == ["<image>\n\nFind: left lung", answer]
    assert "boxes" not in row


def test_other_kinds_of_questions_and_objects_that_are_absent(downloads):
    write_slake_boxes(downloads, LUNGS, [{"Heart": [0, 0, 50, 50]}])
    (written,) = downloads.convert(SlakeBoxes(split="validation", kinds=("REG", "DET"), absent=1))
    assert [said(row) for row in rows_of(written)] == [
        ["<image>\n\nWhat is in the box [100, 100, 300, 700]?", "left lung"],
        ["<image>\n\nWhat is in the box [10, 40, 40, 120]?", "nodule"],
        ["<image>\n\nWhat is in the box [110, 240, 140, 320]?", "nodule"],
        [
            "<image>\n\nWhich objects does the image show, and where?",
            "left lung <BOX>, nodule <BOX>, nodule <BOX>",
        ],
        ["<image>\n\nWhat is in the box [0, 0, 500, 999]?", "heart"],
        ["<image>\n\nWhich objects does the image show, and where?", "heart <BOX>"],
    ]
    assert rows_of(written)[5]["boxes"] == [{"box": [0.0, 0.0, 50.0, 50.0], "label": "heart"}]
    (written,) = downloads.convert(SlakeBoxes(absent=3))
    absent = [(row["image"], row["phrase"], said(row)[1]) for row in rows_of(written) if row["boxes"] == []]
    assert sorted(absent) == [
        ("xmlab0/source.jpg", "heart", "There is no heart."),
        ("xmlab1/source.jpg", "left lung", "There is no left lung."),
        ("xmlab1/source.jpg", "nodule", "There is no nodule."),
    ]


def test_what_cannot_be_used_is_counted_and_the_rest_stays(downloads):
    nan = float("nan")
    write_slake_boxes(
        downloads,
        [
            {"Spleen": [90, 40, 30, 30]},
            {"A": [nan, 0, 1, 1]},
            {"B": [5, 5, 0, 9]},
            {"C": [200, 5, 9, 9]},
            {"D": [1, 2]},
        ],
        [{"Liver": [1, 1, 9, 9]}],
        [{"Liver": [1, 1, 9, 9]}],
        [{"Liver": [1, 1, 9, 9]}],
        ["Liver"],
    )
    images = downloads.folder / "Slake1.0/imgs"
    (images / "xmlab1/source.jpg").unlink()
    (images / "xmlab2/source.jpg").write_bytes(b"no picture")
    (images / "xmlab3/detection.json").unlink()
    (written,) = downloads.convert(SlakeBoxes())
    assert [(row["phrase"], row["boxes"]) for row in rows_of(written)] == [("spleen", [[90.0, 40.0, 100.0, 50.0]])]
    assert left_out(written) == {
        "a box is not four numbers": 2,
        "a box has no area": 1,
        "a box lies outside its image": 1,
        MISSING: 1,
        "the image cannot be read": 1,
        "there is no detection.json": 1,
        "detection.json is not a list of objects": 1,
    }
    assert written.tally.first[MISSING].endswith("imgs/xmlab1/source.jpg")
    assert written.tally.first["a box has no area"].endswith("xmlab0/detection.json: b")
    (kept,) = downloads.convert(SlakeBoxes(), keep_missing=True)
    assert rows_of(kept)[1]["boxes"] == [[1.0, 1.0, 10.0, 10.0]]


def test_a_question_without_a_place_for_the_name_is_refused(downloads):
    write_slake_boxes(downloads, LUNGS)
    with pytest.raises(UserError, match=r"--question 'Where\?' must have \{\}"):
        downloads.convert(SlakeBoxes(question="Where?"))
