import json

import pytest
from PIL import Image

from medcap.data.boxes.box import Box
from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.evaluation.tasks.regions.boxes import BoxOptions
from medcap.evaluation.tasks.regions.coloninst import ColonInstTask

IMAGE = "CVC-ClinicDB/Test/polyp/11.png"
TURNS = {
    "cls": ("Categorize the object.", "polyp"),
    "reg": ("What category does {<10><20><30><40>} belong to?", "polyp"),
    "rec": ("Where is polyp located?", "{<10><20><30><40>}"),
    "cap": ("Interpret what the image shows.", "A polyp in the colon."),
}


def record(part, answer=None, image=IMAGE):
    asked, answered = TURNS[part]
    turns = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": answer or answered}]
    return {"id": image, "image": image.rpartition("/")[2].partition(".")[0], "conversations": turns}


def write(tmp_path, split="test", **parts):
    path = tmp_path / "ColonINST" / "Positive-images" / IMAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 50)).save(path)
    for part, records in parts.items():
        file = tmp_path / "ColonINST" / "Json-file" / split / f"ColonINST-{split}-{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_the_four_tasks_are_read(tmp_path):
    path = write(tmp_path, **{part: [record(part)] for part in TURNS})
    benchmark = ColonInstTask().load(tmp_path)
    assert [(row.id, row.text, row.references, row.meta, row.boxes) for row in benchmark.rows] == [
        ("cls/" + IMAGE, "Categorize the object.", ("polyp",), {"task": "CLS"}, None),
        ("reg/" + IMAGE, "What category does {<10><20><30><40>} belong to?", ("polyp",), {"task": "REG"}, None),
        (
            "rec/" + IMAGE,
            "Where is polyp located?",
            ("{<10><20><30><40>}",),
            {"task": "REC", "phrase": "polyp"},
            (Box((0.1, 0.4, 0.3, 0.8)),),
        ),
        ("cap/" + IMAGE, "Interpret what the image shows.", ("A polyp in the colon.",), {"task": "CAP"}, None),
    ]
    assert {row.image for row in benchmark.rows} == {ImageRef.of(path)}
    assert [row.image_size for row in benchmark.rows] == [None, None, (100, 50), None]
    assert benchmark.notices == ["read 4 rows; the published test set has 165,830"]


def test_a_split_and_its_tasks_are_chosen_and_three_tasks_may_be_in_one_file(tmp_path):
    write(tmp_path, "val", **{"3tasks": [record(part) for part in ("cls", "reg", "rec")], "cap": [record("cap")]})
    task, options = ColonInstTask(), BoxOptions(split="validation", subtasks="rec, CAP")
    assert task.folder(options) == "coloninst-validation"
    assert [row.meta["task"] for row in task.load(tmp_path, options).rows] == ["REC", "CAP"]
    whole = task.load(tmp_path / "ColonINST", BoxOptions(split="validation"))
    assert [row.meta["task"] for row in whole.rows] == ["CLS", "REG", "REC", "CAP"]
    with pytest.raises(UserError, match=r"subtasks: there is no 'VG'; there are CLS, REG, REC, CAP"):
        task.load(tmp_path, BoxOptions(split="validation", subtasks=["VG"]))


def test_several_boxes_are_one_box_around_them(tmp_path):
    write(tmp_path, rec=[record("rec", "{<10><20><30><40>}, {<20><5><60><30>}")])
    (row,) = ColonInstTask().load(tmp_path / "ColonINST" / "Json-file" / "test" / "ColonINST-test-rec.json").rows
    assert (row.references, row.boxes) == (("{<10><5><60><40>}",), (Box((0.1, 0.1, 0.6, 0.8)),))


def test_what_is_wrong_with_a_record_is_a_failure_of_its_question_alone(tmp_path):
    path = write(
        tmp_path,
        rec=[
            record("rec", "in the middle"),
            record("rec", image="CVC-ClinicDB/Test/polyp/12.png"),
            record("rec", image="CVC-ClinicDB/Test/polyp/13.png"),
            record("rec"),
        ],
    )
    path.with_name("13.png").write_bytes(b"no picture")
    benchmark = ColonInstTask().load(tmp_path)
    problems = [row.problem for row in benchmark.rows]
    assert problems[0] == "the file's answer holds no box"
    assert "12.png does not exist" in problems[1]
    assert "13.png" in problems[2]
    assert problems[3] is None
    assert "3 of 4 rows cannot be asked and count as failures" in benchmark.notices[-1]
