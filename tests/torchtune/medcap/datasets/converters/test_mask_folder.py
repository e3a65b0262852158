import json

import numpy as np
import pytest

from helpers.downloads import left_out, rows_of, said
from helpers.mask_sets import LIVER, PART, SIZE, SPLEEN, drawn, masks_of, write_image, write_values
from medcap.datasets.conversion.run import convert
from medcap.datasets.converters.mask_folder import MaskFolder
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.regions.pixel_grounding import PixelGroundingTask

ASK = ("Segment the {}.",)


def made(folder, **options):
    (written,) = convert(MaskFolder(**{"question": ASK} | options), str(folder), folder / "out")
    return written


def asked(row):
    return said(row)[0].removeprefix("<image>\n\n"), said(row)[1]


def write_classes(folder):
    write_image(folder / "images/p1/a.png")
    write_image(folder / "images/b.png")
    write_values(folder / "masks/Left_Liver/p1/a.png", 255 * LIVER)
    write_values(folder / "masks/spleen/b.png", SPLEEN)
    write_values(folder / "masks/spleen/p1/a.png", 0 * SPLEEN)


def test_a_folder_for_each_class(tmp_path):
    write_classes(tmp_path)
    write_values(tmp_path / "masks/spleen/c.png", SPLEEN)
    written = made(tmp_path, absent=1, modality="CT")
    rows = rows_of(written)
    assert [asked(row) for row in rows] == [
        ("Segment the spleen.", "spleen <SEG>."),
        ("Segment the left liver.", "There is no left liver."),
        ("Segment the left liver.", "left liver <SEG>."),
        ("Segment the spleen.", "There is no spleen."),
    ]
    assert {key: rows[2][key] for key in ("image", "task", "phrase", "modality", "image_size")} == {
        "image": "p1/a.png",
        "task": "SEG",
        "phrase": "left liver",
        "modality": "CT",
        "image_size": list(SIZE),
    }
    assert (masks_of(rows[2])["left liver"] == LIVER).all()
    assert [row["masks"] for row in rows[1::2]] == [[], []]
    assert left_out(written) == {"a mask without an image": 1}


def test_the_class_in_the_name_and_instances_that_are_one(tmp_path):
    for name in ("a.png", "a_1.png", "lonely.png"):
        write_image(tmp_path / "images" / name)
    write_values(tmp_path / "masks/a_liver_000.png", LIVER)
    write_values(tmp_path / "masks/a_liver_001.png", PART)
    write_values(tmp_path / "masks/a_1_spleen.png", SPLEEN)
    write_values(tmp_path / "masks/a.png", SPLEEN)
    written = made(tmp_path)
    first, second = rows_of(written)
    assert (first["image"], second["image"]) == ("a.png", "a_1.png")
    assert (masks_of(first)["liver"] == (LIVER | PART)).all()
    assert left_out(written) == {"a mask without a class in its name": 1, "an image without a mask file": 1}


def test_folders_of_patients_are_no_classes(tmp_path):
    for patient in ("p1", "p2"):
        write_image(tmp_path / f"images/{patient}/a.png")
        write_values(tmp_path / f"masks/{patient}/a_liver.png", LIVER)
    rows = rows_of(made(tmp_path))
    assert [(row["image"], row["phrase"]) for row in rows] == [("p1/a.png", "liver"), ("p2/a.png", "liver")]
    for patient in ("p1", "p2"):
        write_values(tmp_path / f"masks/spleen/{patient}/a.png", SPLEEN)
        (tmp_path / f"masks/{patient}/a_liver.png").unlink()
    assert [row["phrase"] for row in rows_of(made(tmp_path))] == ["spleen", "spleen"]


def test_one_phrase_for_masks_that_have_no_class(tmp_path):
    write_image(tmp_path / "images/x (1).png")
    write_values(tmp_path / "masks/x (1)_mask.png", LIVER)
    write_values(tmp_path / "masks/x (1)_mask_1.png", SPLEEN)
    (row,) = rows_of(made(tmp_path, phrase="tumour"))
    assert (masks_of(row)["tumour"] == (LIVER | SPLEEN)).all()


@pytest.mark.parametrize("classes", [{"0": "background", "1": "liver", "7": "spleen"}, {"liver": 1, "spleen": 7}])
def test_values_of_one_picture(tmp_path, classes):
    write_image(tmp_path / "images/a.png")
    write_values(tmp_path / "masks/a.png", 1 * LIVER + 7 * SPLEEN + 9 * PART)
    (tmp_path / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
    written = made(tmp_path, kinds=("SEG", "ALL"))
    rows = rows_of(written)
    assert asked(rows[2]) == ("Segment the liver and the spleen.", "liver <SEG>, spleen <SEG>.")
    assert [list(masks_of(row)) for row in rows] == [["liver"], ["spleen"], ["liver", "spleen"]]
    assert (masks_of(rows[2])["spleen"] == SPLEEN).all()
    assert left_out(written) == {"values without a name": 1}


def test_every_layout_calls_an_object_alike(tmp_path):
    for layout in ("folders", "names", "values", "coco"):
        write_image(tmp_path / layout / "images/a.png")
    write_values(tmp_path / "folders/masks/Vertebrae_T9/a.png", LIVER)
    write_values(tmp_path / "names/masks/a_Vertebrae_T9_000.png", LIVER)
    write_values(tmp_path / "values/masks/a.png", 1 * LIVER)
    (tmp_path / "values/classes.json").write_text('{"1": "Vertebrae_T9"}', encoding="utf-8")
    value = {
        "images": [{"id": 1, "file_name": "a.png", "width": 12, "height": 8}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 5, 0, 5, 4, 0, 4]]}],
        "categories": [{"id": 1, "name": "Vertebrae_T9"}],
    }
    (tmp_path / "set.json").write_text(json.dumps(value), encoding="utf-8")
    found = [made(tmp_path / layout) for layout in ("folders", "names", "values")]
    found.append(made(tmp_path / "coco", coco=str(tmp_path / "set.json")))
    assert [row["phrase"] for written in found for row in rows_of(written)] == ["vertebrae T9"] * 4


def test_polygons_and_run_lengths_of_a_coco_file(tmp_path):
    write_image(tmp_path / "images/a.png")
    write_image(tmp_path / "images/b.png")
    counts = [3 * 8, 8, SIZE[0] * 8 - 4 * 8]  # the fourth column
    annotations = [
        {"image_id": 1, "category_id": 5, "segmentation": [[0, 0, 5, 0, 5, 4, 0, 4], [0, 6, 3, 6, 3, 8, 0, 8]]},
        {"image_id": 1, "category_id": 6, "segmentation": {"size": [8, 12], "counts": counts}, "iscrowd": 1},
        {"image_id": 1, "category_id": 6, "segmentation": [[6, 2, 10, 2, 10, 6, 6, 6]]},
        {"image_id": 1, "category_id": 6, "segmentation": [[6, 2, 10]]},
    ]
    value = {
        "images": [{"id": n, "file_name": f"{name}.png", "width": 12, "height": 8} for n, name in ((1, "a"), (2, "b"))],
        "annotations": annotations,
        "categories": [{"id": 5, "name": "Liver"}, {"id": 6, "name": "Spleen"}],
    }
    (tmp_path / "set.json").write_text(json.dumps(value), encoding="utf-8")
    written = made(tmp_path, coco=str(tmp_path / "set.json"), absent=1, absent_answer="mask")
    rows = rows_of(written)
    assert written.path.name == "set.jsonl"
    assert [(row["image"], row["phrase"], asked(row)[1]) for row in rows[:2]] == [
        ("a.png", "liver", "liver <SEG>."),
        ("a.png", "spleen", "spleen <SEG>."),
    ]
    assert (masks_of(rows[0])["liver"] == (LIVER | PART)).all()
    assert (masks_of(rows[1])["spleen"] == (SPLEEN | drawn(3, 0, 4, 8))).all()
    assert rows[2]["masks"] in ([{"mask": None, "label": name}] for name in ("liver", "spleen"))
    assert left_out(written) == {"an annotation whose 'segmentation' cannot be read": 1}


def test_a_mask_of_another_size_is_left_out_and_counted(tmp_path):
    write_classes(tmp_path)
    write_image(tmp_path / "images/b.png", (11, 8))
    assert left_out(made(tmp_path)) == {"the masks have another size than their image": 1}


def test_patients_and_objects_are_divided(tmp_path):
    for name in ("p1_a", "p1_b", "p2_a", "p3_a"):
        write_image(tmp_path / f"images/{name}.png")
        write_values(tmp_path / f"masks/{name}_liver.png", LIVER)
        write_values(tmp_path / f"masks/{name}_spleen.png", SPLEEN)
    options = {"patient_pattern": "^(p[0-9])_", "test_share": 0.34}
    train, test = convert(MaskFolder(**options), str(tmp_path), tmp_path / "out")
    patients = [{row["patient"] for row in rows_of(part)} for part in (train, test)]
    assert (train.path.name, test.path.name, train.rows + test.rows) == ("masks_train.jsonl", "masks_test.jsonl", 8)
    assert (len(patients[0]), len(patients[1]), patients[0] & patients[1]) == (2, 1, set())
    parts = convert(MaskFolder(test_share=0.25, test_by="object"), str(tmp_path), tmp_path / "out")
    objects = [{(row["image"], row["phrase"]) for row in rows_of(part)} for part in parts]
    assert (len(objects[0]), len(objects[1]), objects[0] & objects[1]) == (6, 2, set())


def test_the_task_reads_the_rows(tmp_path):
    write_classes(tmp_path)
    written = made(tmp_path, absent=1)
    rows = PixelGroundingTask().load(written.path, LoadOptions(image_roots=[tmp_path])).rows
    assert [(row.text, row.references[0], row.mask_labels) for row in rows[:2]] == [
        ("Segment the spleen.", "spleen <SEG>.", ("spleen",)),
        ("Segment the left liver.", "There is no left liver.", ("left liver",)),
    ]
    assert [row.problem for row in rows] == [None] * 4
    assert rows[1].masks == (None,)


def test_phrasings_differ_and_are_the_same_again(tmp_path):
    for number in range(12):
        write_image(tmp_path / f"images/{number}.png")
        write_values(tmp_path / f"masks/{number}_liver.png", LIVER)
    questions = [asked(row)[0] for row in rows_of(made(tmp_path, question=None))]
    assert len(set(questions)) > 2
    assert questions == [asked(row)[0] for row in rows_of(made(tmp_path, question=None))]
    assert all("liver" in question for question in questions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question": ("Where?",)}, "--question 'Where.' must have {}"),
        ({"masks": "nothing"}, "nothing does not exist"),
        ({"patient_pattern": "("}, "--patient-pattern '.' is no regular expression"),
        ({"coco": "x.json", "phrase": "a"}, "--coco names the classes itself"),
        ({"coco": "x.json"}, "masks: --coco x.json does not exist"),
        ({"classes": "none.json"}, "none.json cannot be read as JSON"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    write_classes(tmp_path)
    with pytest.raises(UserError, match=message):
        made(tmp_path, **options)


def test_bad_classes_and_jpeg_values_are_named(tmp_path):
    write_image(tmp_path / "images/a.png")
    write_values(tmp_path / "masks/a.jpg", np.where(LIVER, 1, 0))
    (tmp_path / "classes.json").write_text('{"1": 2}', encoding="utf-8")
    with pytest.raises(UserError, match=r"classes\.json must hold classes as"):
        made(tmp_path)
    (tmp_path / "classes.json").write_text('{"1": "liver"}', encoding="utf-8")
    with pytest.raises(UserError, match="JPEG, which changes values"):
        made(tmp_path)
