from helpers.downloads import Downloads, write_slake_boxes
from medcap.data.boxes.box import Box
from medcap.evaluation.tasks.regions.boxes import BoxOptions
from medcap.evaluation.tasks.regions.slake_boxes import SlakeBoxesTask

LUNGS = [{"Left Lung": [10.0, 5.0, 20.0, 30.0]}, {"Nodule": [1, 2, 3, 4]}, {"Nodule": [11, 12, 3, 4]}]


def test_each_object_is_a_question(tmp_path):
    write_slake_boxes(Downloads(tmp_path), LUNGS, [{"Heart": [0, 0, 50, 50]}])
    benchmark = SlakeBoxesTask().load(tmp_path)
    first, second, _ = benchmark.rows
    assert (first.id, first.text) == ("xmlab0/source.jpg/rec/left lung", "Where is the left lung?")
    assert (first.references, first.boxes) == (("[100, 100, 300, 700]",), (Box((0.1, 0.1, 0.3, 0.7)),))
    assert first.meta == {"task": "REC", "phrase": "left lung", "modality": "CT", "organ": "Lung"}
    assert first.image_size == (100, 50)
    assert second.boxes == (Box((0.01, 0.04, 0.04, 0.12)), Box((0.11, 0.24, 0.14, 0.32)))
    assert benchmark.notices == ["2 images, 3 questions; no count is published"]
    assert len(benchmark.files) == 3


def test_further_kinds_and_absent_objects_are_asked_for(tmp_path):
    write_slake_boxes(Downloads(tmp_path), LUNGS[:1], [{"Heart": [0, 0, 50, 50]}])
    options = BoxOptions(split="validation", subtasks=["REC", "reg"], absent=2)
    assert SlakeBoxesTask().folder(options) == "slake_boxes-validation"
    rows = SlakeBoxesTask().load(tmp_path, options).rows
    assert [(row.id, row.references[0], row.boxes) for row in rows[1:3]] == [
        ("xmlab0/source.jpg/rec/heart", "none", ()),
        ("xmlab0/source.jpg/reg/2", "left lung", None),
    ]


def test_a_missing_image_and_unusable_boxes_stay_as_failures(tmp_path):
    write_slake_boxes(Downloads(tmp_path), LUNGS[:1], [{"Heart": [0, 0, 0, 50]}], [{"Liver": [0, 0, 5, 5]}], [])
    (tmp_path / "Slake1.0/imgs/xmlab0/source.jpg").unlink()
    (tmp_path / "Slake1.0/imgs/xmlab3/detection.json").write_text("{", encoding="utf-8")
    benchmark = SlakeBoxesTask().load(tmp_path)
    lung, heart, liver = benchmark.rows
    assert "xmlab0/source.jpg does not exist" in lung.problem
    assert lung.boxes is not None
    assert heart.problem.endswith("xmlab1/detection.json: heart: a box has no area")
    assert liver.problem is None
    left, count, failures = benchmark.notices
    assert left.startswith("1 left out: detection.json is not valid JSON (the first: ")
    assert count.startswith("3 images, 3 questions")
    assert failures.startswith("2 of 3 rows cannot be asked and count as failures")
