import pytest

from helpers.downloads import Downloads, rows_of, said, write_own
from medcap.datasets.conversion.run import convert
from medcap.datasets.converters.csv_table import CsvTable
from medcap.errors import UserError


def test_images_are_next_to_the_file(tmp_path):
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


def test_a_stray_quote_takes_no_other_row_along(tmp_path):
    downloads = Downloads(tmp_path)
    downloads.images(".", *(f"{number}.png" for number in range(1, 5)))
    rows = [("1.png", '"Halo sign'), ("2.png", "Normal"), ("3.png", '"Effusion", left'), ("4.png", 'A 5" tube')]
    table = downloads.text("t.tsv", "image\ttext\n" + "".join(f"{name}\t{text}\n" for name, text in rows))
    (written,) = convert(CsvTable(str(table)), "", tmp_path / "out")
    assert [(row["image"], said(row)[1]) for row in rows_of(written)] == rows
    table = downloads.text("t.csv", "image,text\n" + "".join(f"{name},{text}\n" for name, text in rows))
    (written,) = convert(CsvTable(str(table)), "", tmp_path / "out")
    assert [(row["image"], said(row)[1]) for row in rows_of(written)] == [("4.png", 'A 5" tube')]
    assert written.tally.skipped == {"damaged: text stands behind a closing quote": 3}
    assert written.tally.first == {"damaged: text stands behind a closing quote": f"{table}, lines 2 to 4"}
    with pytest.raises(UserError, match="has 2 columns 'text'"):
        convert(CsvTable(str(downloads.text("d.csv", "image,text,text\n1.png,a,b\n"))), "", tmp_path / "out")
    with pytest.raises(UserError, match=r"csv: --file .* is a folder"):
        convert(CsvTable(str(tmp_path)), "", tmp_path / "out")
