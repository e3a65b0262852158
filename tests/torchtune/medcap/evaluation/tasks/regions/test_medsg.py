import json

import pytest

from helpers.downloads import picture
from medcap.data.boxes.box import Box
from medcap.errors import UserError
from medcap.evaluation.tasks.regions.boxes import BoxOptions
from medcap.evaluation.tasks.regions.medsg import MedSgTask

FRONT, TOP = "ACDC_MRI_RV_npy_imgs_casenum_7_front.png", "ACDC_MRI_RV_npy_imgs_casenum_7_top.png"
SHARED = (
    "These images share one object (<|box_start|>(10,5),(60,45)<|box_end|>). Recognize and locate this object in the"
    " second image."
)


def write(tmp_path, number=3, **changes):
    folder = tmp_path / "MedSG-Bench" / f"Task{number}"
    folder.mkdir(parents=True)
    (folder / FRONT).write_bytes(picture(size=(100, 50)))
    (folder / TOP).write_bytes(picture(size=(200, 100)))
    images = [f"MedSG-Bench/MedSG-Bench/Task{number}/{name}" for name in (FRONT, TOP)]
    row = {"task": "multi_view", "images": images, "question": SHARED, "answer": [20, 10, 100, 60], "size": [200, 100]}
    path = tmp_path / "MedSG-Bench" / f"Task{number}.json"
    path.write_text(json.dumps([row | changes]), encoding="utf-8")


def test_a_question_shows_its_images_and_asks_about_one_of_them(tmp_path):
    write(tmp_path)
    (row,) = MedSgTask().load(tmp_path).rows
    assert row.text == (
        "These images share one object ([100, 100, 600, 900]). Recognize and locate this object in the second image."
    )
    assert [image.path.rpartition("/")[2] for image in row.images] == [FRONT, TOP]
    assert (row.id, row.references, row.image_size) == ("task3/0", ("[100, 100, 500, 600]",), (200, 100))
    assert row.boxes == (Box((0.1, 0.1, 0.5, 0.6), image=1),)
    assert row.meta == {"task": "multi_view", "question_type": "multi_view", "patient": "ACDC 7"}


def test_names_lose_their_tags_and_tasks_are_chosen(tmp_path):
    words = "Locate: <|object_ref_start|>Liver<|object_ref_end|>."
    write(tmp_path, 8, task="referring", question=words, size=None)
    write(tmp_path, 6, task="patch", question="Please locate the first region picture in the source image.", size=None)
    both = MedSgTask().load(tmp_path).rows
    assert [(row.meta["task"], row.boxes[0].image) for row in both] == [("patch", 0), ("referring", 1)]
    (row,) = MedSgTask().load(tmp_path, BoxOptions(subtasks=["Referring"])).rows
    assert row.text == "Locate: Liver."


def test_bad_boxes_and_missing_images_stay_as_failures(tmp_path):
    write(tmp_path, 1, answer=[10, 10, 10, 20])
    write(tmp_path, 2, images=["MedSG-Bench/Task2/other.png"])
    write(tmp_path, 3)
    bad, missing, good = MedSgTask().load(tmp_path).rows
    assert (bad.problem, bad.boxes) == ("a box has no area", None)
    assert "other.png does not exist" in missing.problem
    assert missing.boxes == (Box((0.1, 0.1, 0.5, 0.6)),)
    assert good.problem is None


def test_a_row_without_images_stops_the_benchmark(tmp_path):
    write(tmp_path, images="one.png")
    with pytest.raises(UserError, match=r"Task3.json, row 0: 'images' is not a list of paths"):
        MedSgTask().load(tmp_path)
