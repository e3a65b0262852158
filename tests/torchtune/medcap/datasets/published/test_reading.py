import csv

import pytest

from helpers.downloads import Downloads
from medcap.datasets.conversion.example import Tally
from medcap.datasets.published.reading import Strict, bar_records, csv_records, json_records, parquet_records
from medcap.errors import UserError


@pytest.fixture
def downloads(tmp_path):
    return Downloads(tmp_path)


def test_a_json_array_that_is_cut_off_ends_the_conversion(downloads):
    file = downloads.text("a.json", '[{"a": 1},\n{"a":')
    with pytest.raises(UserError, match=r"a.json, line 2: not valid JSON .*is the file cut off"):
        list(json_records(file, Tally()))


def test_a_file_that_changes_meanwhile_is_not_a_damaged_row(downloads):
    file = downloads.lines("a.jsonl", [{"a": 1}, {"a": 2}])
    records = json_records(file, Tally())
    next(records)
    file.write_text(file.read_text() + " ")
    with pytest.raises(UserError, match="was changed while it was read"):
        list(records)


def test_csv_fields_stay_the_text_that_they_are(downloads):
    file = downloads.text("a.csv", '\ufeffa,b\n007,"x, ""y""\nz"\nNA,\n')
    tally = Tally()
    assert list(csv_records(file, ("a",), tally)) == [
        (f"{file}, line 3", {"a": "007", "b": 'x, "y"\nz'}),
        (f"{file}, line 4", {"a": "NA", "b": ""}),
    ]
    assert tally.read == 2


def test_a_csv_field_that_is_too_long_is_left_out_and_nothing_else(downloads, monkeypatch):
    monkeypatch.setattr("medcap.datasets.published.reading.MAX_FIELD", 100)
    file = downloads.text("a.csv", f"a\nb\n{'c' * 101}\nd\n")
    tally = Tally()
    limit = csv.field_size_limit(100)
    try:
        assert [row["a"] for _, row in csv_records(file, ("a",), tally)] == ["b", "d"]
    finally:
        csv.field_size_limit(limit)
    assert (tally.read, tally.first) == (3, {"not a readable line of CSV": f"{file}, line 3"})


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"a\nb\n\xff\n", b"a\n" + b"b\n" * 100_000 + b"\xff\n"])
def test_a_csv_file_that_is_not_text_is_named(downloads, content):
    file = downloads.folder / "a.csv"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a.csv is not UTF-8 text \(invalid start byte\): write it as UTF-8"):
        list(csv_records(file, (), Tally()))


def test_an_empty_csv_file_has_no_columns(downloads):
    with pytest.raises(UserError, match=r"a.csv has no column 'b' \(it has: nothing\)"):
        list(csv_records(downloads.text("a.csv", ""), ("b",), Tally()))


def test_the_last_field_between_bars_takes_the_rest(downloads):
    tally = Tally()
    file = downloads.text("a.txt", "a | b|c|d\n\nx|y\n")
    assert list(bar_records(file, "x|y|z", tally)) == [(f"{file}, line 1", ["a", "b", "c|d"])]
    assert (tally.read, tally.first) == (2, {"expected x|y|z": f"{file}, line 3"})
    with pytest.raises(UserError, match="cannot be read: No such file"):
        list(bar_records(file.with_name("none.txt"), "x|y|z", Tally()))


def test_parquet_files_follow_one_another(downloads):
    files = [downloads.parquet(f"{name}.parquet", [{"a": name}]) for name in "xy"]
    tally = Tally()
    assert [row["a"] for _, row in parquet_records(files, ("a",), tally)] == ["x", "y"]
    assert tally.read == 2
    with pytest.raises(UserError, match=r"x.parquet has no column 'b'"):
        list(parquet_records(files, ("b",), Tally()))


def test_lines_between_bars_are_read_in_either_encoding(downloads):
    file = downloads.folder / "a.txt"
    file.write_bytes(b"\xef\xbb\xbf1|\xc3\xa9 |x\r\n\r\n" + "2|é|\n".encode("cp1252"))
    fields = [fields for _, fields in bar_records(file, "id|q|a", Strict("Bench"))]
    assert fields == [["1", "é", "x"], ["2", "é", ""]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"a": 1},\n{"a": 2', "a.json, line 3: not valid JSON .* is the file cut off"),
        ('{"a": 1}\n{"a"\n', "a.json, row 1: not valid JSON; .* download the file again"),
        ('[{"a": 1}, 3]', "a.json, row 1: the row is not an object; .* download the file again"),
        ("", "a.json is empty"),
    ],
)
def test_a_benchmark_s_json_file_stops_at_the_first_damaged_row(downloads, text, message):
    with pytest.raises(UserError, match=message):
        list(json_records(downloads.text("a.json", text), Strict("Bench")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q,a\n0,0\n1\n", "a.csv, line 3: not as many fields as the heading; .* download the file again"),
        ("q,a\n0,0\n1,2,3\n", "a.csv, line 3: not as many fields as the heading"),
        ('image,q\n1.jpg,"Halo\n2.jpg,Is it 5"\n', "a.csv, lines 2 to 3: damaged: a quoted field runs .* again"),
        ("image,q,q\n1,2,3\n", "has 2 columns 'q'"),
    ],
)
def test_a_benchmark_s_table_stops_at_the_first_damaged_row(downloads, text, message):
    with pytest.raises(UserError, match=message):
        list(csv_records(downloads.text("a.csv", text), (), Strict("Bench")))


def test_a_benchmark_s_short_line_and_a_file_of_something_else_are_named(downloads):
    file = downloads.text("a.txt", "1|b\n2\n")
    with pytest.raises(UserError, match=r"a.txt, line 2: expected id\|q; .* download the file again"):
        list(bar_records(file, "id|q", Strict("Bench")))
    strict = Strict("Bench")
    list(csv_records(downloads.text("a.csv", "q,a\n1,2\n"), (), strict))
    with pytest.raises(UserError, match=r"a.csv is not a file of Bench: its first row has no 'x' \(it has: q, a\)"):
        strict.check_first(downloads.folder / "a.csv", {"q": "1", "a": "2"}, ("q", "x"))
    strict.read = 2  # later rows may lack a key
    strict.check_first(downloads.folder / "a.csv", {}, ("q",))
