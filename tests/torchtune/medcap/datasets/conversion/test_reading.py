import csv

import pytest

from helpers.downloads import Downloads
from medcap.datasets.conversion.example import Tally
from medcap.datasets.conversion.reading import bar_records, csv_records, json_records, parquet_records
from medcap.errors import UserError


@pytest.fixture
def downloads(tmp_path):
    return Downloads(tmp_path)


def test_a_json_array_that_is_cut_off_ends_the_conversion(downloads):
    file = downloads.text("a.json", '[{"a": 1},\n{"a":')
    with pytest.raises(UserError, match=r"a.json, line 2: not valid JSON .*is the file cut off"):
        list(json_records(file, Tally()))


def test_a_file_that_changes_meanwhile_is_no_damaged_row(downloads):
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
    monkeypatch.setattr("medcap.datasets.conversion.reading.MAX_FIELD", 100)
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
def test_a_csv_file_that_is_no_text_is_named(downloads, content):
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
    assert list(bar_records(file, 3, tally)) == [(f"{file}, line 1", ["a", "b", "c|d"])]
    assert (tally.read, tally.first) == (2, {"not 3 fields between |": f"{file}, line 3"})
    with pytest.raises(UserError, match="cannot be read: No such file"):
        list(bar_records(file.with_name("none.txt"), 3, Tally()))


def test_parquet_files_follow_one_another(downloads):
    files = [downloads.parquet(f"{name}.parquet", [{"a": name}]) for name in "xy"]
    tally = Tally()
    assert [row["a"] for _, row in parquet_records(files, ("a",), tally)] == ["x", "y"]
    assert tally.read == 2
    with pytest.raises(UserError, match=r"x.parquet has no column 'b'"):
        list(parquet_records(files, ("b",), Tally()))
