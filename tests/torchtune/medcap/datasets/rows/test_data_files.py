import json

import pytest

from medcap.datasets.conversion.example import Tally
from medcap.datasets.published.reading import json_records
from medcap.datasets.rows.json_file import open_rows
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError

ROW = {"image": "a.jpg", "question": "Where?", "regions": [{"box": [1, 2]}]}
DEEP = '{"x": ' + "[" * 60_000 + "]" * 60_000 + "}"
LONG = '{"x": ' + "1" * 5001 + "}"


def all_readers(path):
    """Read a file in each of the ways that there are."""
    rows = open_rows(path)
    tally = Tally()
    return [
        [value for _, value in read_rows(path)],
        [rows.read(index) for index in range(len(rows))],
        [value for _, value in json_records(path, tally)],
    ]


READERS = [
    lambda path: list(read_rows(path)),
    lambda path: [open_rows(path).read(0)],
    lambda path: list(json_records(path, Tally())),
]
EVERY_READER = pytest.mark.parametrize("read", READERS, ids=["read_rows", "open_rows", "json_records"])


@pytest.mark.parametrize("begin", ["", "\ufeff", " \n\n"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n  "])
def test_one_object_over_several_lines_is_one_row(tmp_path, begin, end):
    path = tmp_path / "row.json"
    path.write_text(begin + json.dumps(ROW, indent=2, ensure_ascii=False) + end, encoding="utf-8", newline="")
    assert all_readers(path) == [[ROW]] * 3


@EVERY_READER
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("key", ["annotations", "data"])
def test_an_object_that_holds_the_rows_is_named(tmp_path, read, indent, key):
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"info": {}, key: [ROW, ROW]}, indent=indent))
    with pytest.raises(UserError, match=f"is one object and not an array .* list under '{key}'"):
        read(path)


@EVERY_READER
def test_objects_over_several_lines_are_not_jsonl(tmp_path, read):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(ROW, indent=2)] * 2))
    with pytest.raises(UserError, match="is neither an array nor JSONL: its objects go over several lines"):
        read(path)


@pytest.mark.parametrize("text", ['{"a": \n{"a": 2}\n', '{"a": 1\n{"a": 2}\n'])
def test_a_damaged_first_row_leaves_the_file_jsonl(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    assert open_rows(path).read(1) == {"a": 2}
    with pytest.raises(UserError, match="row 0: not valid JSON"):
        open_rows(path).read(0)


@EVERY_READER
def test_something_that_is_not_a_file_is_called_by_its_name(tmp_path, read):
    with pytest.raises(UserError, match=r"does not exist|cannot be read: No such file"):
        read(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"is a folder: name a file in it|Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PAR1\xff", "a parquet file"),
        (b"\x1f\x8b\x08\xff", "a gzip file: unpack it"),
        (b"PK\x03\x04\xff", "a zip file"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, content, kind):
    (tmp_path / "rows").write_bytes(content)
    for read in READERS[:2]:
        with pytest.raises(UserError, match=f"is not UTF-8 text but {kind}"):
            read(tmp_path / "rows")


@pytest.mark.parametrize(
    ("row", "reason"), [(DEEP, "nested too deeply"), (LONG, "a number has more than 4,300 digits")]
)
@pytest.mark.parametrize("layout", ["{}", "[{}]", '{{"a": 1}}\n{}'])
def test_what_json_cannot_hold_is_one_line(tmp_path, row, reason, layout):
    path = tmp_path / "rows.json"
    path.write_text(layout.format(row))
    with pytest.raises(UserError, match=reason) as caught:
        list(read_rows(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and "cut off" not in str(caught.value)
    with pytest.raises(UserError, match=reason):
        [rows.read(index) for rows in [open_rows(path)] for index in range(len(rows))]


def test_a_table_is_not_called_cut_off(tmp_path):
    path = tmp_path / "answers.csv"
    path.write_text("question_id,reference,prediction\n1,a,b\n")
    with pytest.raises(UserError, match=r"line 1: not valid JSON .*: the file must be JSON or JSONL$"):
        list(read_rows(path))
