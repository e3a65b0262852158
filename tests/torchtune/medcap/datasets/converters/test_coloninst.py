import json

import pytest

from helpers.downloads import Downloads, left_out, picture, rows_of, said, write_coloninst
from medcap.datasets.converters.coloninst import ColonInst
from medcap.errors import UserError


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_coloninst(downloads)
    return downloads


def test_the_image_is_the_one_that_id_names(downloads):
    (written,) = downloads.convert(ColonInst())
    assert written.path.name == "coloninst_train.jsonl"
    assert [said(row) for row in rows_of(written)] == [
        ["<image>\n\nInterpret what the image shows.", "A polyp in the colon."],
        ["<image>\n\nWhere is the location of polyp?", "{<40><12><160><216>}"],
    ]
    assert {row["image"] for row in rows_of(written)} == {"CVC-ClinicDB/Train/polyp/11.png"}


def test_tasks_are_chosen_and_the_three_may_be_three_files(downloads):
    (written,) = downloads.convert(ColonInst(tasks=("3tasks",)))
    assert [said(row)[1] for row in rows_of(written)] == ["{<40><12><160><216>}"]
    joined = downloads.folder / "ColonINST/Json-file/train/ColonINST-train-3tasks.json"
    for task in ("cls", "reg", "rec"):
        joined.with_name(f"ColonINST-train-{task}.json").write_bytes(joined.read_bytes())
    joined.unlink()
    (written,) = downloads.convert(ColonInst())
    assert written.rows == 4


def test_the_missing_file_is_named(downloads):
    with pytest.raises(UserError, match=r"Json-file/val/ColonINST-val-cap.json .*does not exist: download"):
        downloads.convert(ColonInst("validation"))


def test_several_boxes_become_the_box_around_them(downloads):
    file = downloads.folder / "ColonINST/Json-file/train/ColonINST-train-3tasks.json"
    file.write_text(file.read_text().replace("{<40><12><160><216>}", "{<40><12><60><216>} {<50><2><160><100>}"))
    (written,) = downloads.convert(ColonInst(tasks=("3tasks",)))
    assert [said(row)[1] for row in rows_of(written)] == ["{<40><2><160><216>}"]


def test_boxes_are_cut_at_the_edges_of_the_image_and_what_lies_outside_is_counted_and_named(downloads):
    image = downloads.folder / "ColonINST/Positive-images/CVC-ClinicDB/Train/polyp/11.png"
    image.write_bytes(picture(size=(200, 100)))
    file = downloads.folder / "ColonINST/Json-file/train/ColonINST-train-3tasks.json"
    (record,) = json.loads(file.read_text())
    boxes = (
        "{<40><12><160><80>}",
        "{<150><12><260><100>}",
        "{<200><12><260><80>}",
        "{<40><12><40><80>}",
        "{<40><12><9>}",
    )
    answers = [json.loads(json.dumps(record).replace("{<40><12><160><216>}", box)) for box in boxes]
    asked = json.loads(json.dumps(record).replace("Where is the location of polyp?", "What is {<300><0><400><9>}?"))
    file.write_text(json.dumps([*answers, asked]))
    (written,) = downloads.convert(ColonInst(tasks=("3tasks",)))
    assert [said(row)[1] for row in rows_of(written)] == ["{<40><12><160><80>}", "{<150><12><200><100>}"]
    assert left_out(written) == {
        "a box lies outside its image": 2,
        "a box has no area": 1,
        "a box is not four numbers": 1,
    }
    assert written.tally.first["a box lies outside its image"] == f"{file}, row 2"
