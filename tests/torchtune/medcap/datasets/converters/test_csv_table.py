import pytest

from helpers.downloads import Downloads, rows_of, said, write_own
from medcap.datasets.conversion.run import convert
from medcap.datasets.converters.csv_table import CsvTable
from medcap.errors import UserError


def test_images_lie_beside_the_file(tmp_path):
    write_own(Downloads(tmp_path))
    (written,) = convert(CsvTable(f"{tmp_path}/mine/rows.csv"), "", tmp_path / "out")
    assert written.path.name == "rows.jsonl"
    assert [(row["image"], said(row)) for row in rows_of(written)] == [
        ("a.png", ["<image>", "A, clear."]),
        ("b.png", ["<image>", "B."]),
    ]
    assert rows_of(written)[0]["meta"] == f"dir={tmp_path}/mine"


def test_columns_have_other_names_and_the_file_another_place(tmp_path):
    downloads = Downloads(tmp_path)
    downloads.images("pictures", "a.png")
    file = downloads.text("t.tsv", "file\tasked\tanswered\na.png\tWhere, then?\tLeft\n")
    (written,) = convert(CsvTable(str(file), "file", "answered", "asked"), str(tmp_path / "pictures"), tmp_path / "out")
    assert [said(row) for row in rows_of(written)] == [["<image>\n\nWhere, then?", "Left"]]


def test_a_missing_file_or_column_is_named(tmp_path):
    write_own(Downloads(tmp_path))
    with pytest.raises(UserError, match=r"csv: --file .*none.csv does not exist"):
        convert(CsvTable(f"{tmp_path}/none.csv"), "", tmp_path / "out")
    with pytest.raises(UserError, match=r"rows.csv has no column 'caption' \(it has: image, text\)"):
        convert(CsvTable(f"{tmp_path}/mine/rows.csv", text_column="caption"), "", tmp_path / "out")
    assert not (tmp_path / "out").exists()
