import json

import pytest

from helpers.downloads import Downloads, left_out, rows_of, said
from medcap.datasets.conversion.example import Example, Tally
from medcap.datasets.conversion.instructions import Instructions
from medcap.datasets.conversion.writing import RowWriter
from medcap.errors import UserError


def write(path, *examples, limit=None, keep_missing=False):
    writer = RowWriter(Instructions(), limit, keep_missing)
    return writer.write(path, [(f"row {number}", example) for number, example in enumerate(examples)], Tally())


def text(words):
    return Example([("q", words)])


def test_a_row_a_line_in_either_kind_of_file(tmp_path):
    for name in ("a.jsonl", "a.json"):
        written = write(tmp_path / name, text("é\u2028\n"), text("b"))
        assert [said(row) for row in rows_of(written)] == [["q", "é"], ["q", "b"]]
        lines = written.path.read_text(encoding="utf-8").split("\n")
        assert len(lines) == {".jsonl": 3, ".json": 5}[written.path.suffix]
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))[0]["conversations"][1]["value"] == "é"


def test_the_first_name_that_is_there_is_taken(tmp_path):
    Downloads(tmp_path).images("d", "a.png")
    written = write(tmp_path / "a.jsonl", Example([("q", "b")], ("a.jpg", "a.png"), f"{tmp_path}/d"))
    assert rows_of(written)[0]["image"] == "a.png"
    assert written.folders == {f"{tmp_path}/d"}


def test_links_are_followed_to_where_training_must_look(tmp_path):
    Downloads(tmp_path).images("blobs", "hash")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.png").symlink_to("../blobs/hash")
    (tmp_path / "d/b.png").symlink_to("../blobs/none")
    (tmp_path / "d/c.png").mkdir()
    examples = [Example([("q", "b")], (f"{name}.png",), f"{tmp_path}/d") for name in "abc"]
    written = write(tmp_path / "a.jsonl", *examples)
    assert (written.rows, written.folders) == (1, {f"{tmp_path}/blobs"})
    assert left_out(written) == {"the image is missing": 2}


def test_rows_without_their_image_may_be_kept(tmp_path):
    written = write(tmp_path / "a.jsonl", Example([("q", "b")], ("a.png",), "d"), keep_missing=True)
    assert (written.rows, written.missing, left_out(written)) == (1, 1, {})


def test_the_limit_stops_reading(tmp_path):
    def endless():
        while True:
            yield "row", text("a")

    assert RowWriter(Instructions(), limit=3).write(tmp_path / "a.jsonl", endless(), Tally()).rows == 3


def test_without_a_row_there_is_no_file_and_an_old_one_stays(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    with pytest.raises(UserError, match=r"a.jsonl: not one record can be used, 1: a turn without words \(first: "):
        write(path, text(" "))
    with pytest.raises(UserError, match=r"1: the image is missing .*keep such rows by --keep-missing"):
        write(path, Example([("q", "b")], ("a.png",), "d"))
    with pytest.raises(UserError, match="the source holds nothing to convert"):
        write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_reading_leaves_no_file(tmp_path):
    def broken():
        yield "row", text("a")
        raise UserError("cut off")

    with pytest.raises(UserError, match="cut off"):
        RowWriter(Instructions()).write(tmp_path / "a.jsonl", broken(), Tally())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_meta_cannot_say_is_refused(tmp_path):
    folder = "d;image=b"
    Downloads(tmp_path).images(folder, "a.png")
    with pytest.raises(UserError, match=r"cannot stand in a row's meta: choose a name without ';' and '='"):
        write(tmp_path / "a.jsonl", Example([("q", "b")], ("a.png",), f"{tmp_path}/{folder}"))
