import pytest

from helpers.downloads import Downloads, left_out, picture, rows_of, said
from medcap.datasets.converters.csv_boxes import CsvBoxes
from medcap.errors import UserError


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    for name in ("a.png", "b.png"):
        downloads.text(name, "").write_bytes(picture(size=(100, 50)))
    return downloads


def test_a_row_is_a_box_and_a_row_without_one_an_image(downloads):
    rows = [
        {"image": "a.png", "label": "Nodule", "x1": "10", "y1": "5", "x2": "30", "y2": "15", "who": "p1"},
        {"image": "b.png", "label": "", "x1": "", "y1": "", "x2": "", "y2": "", "who": "p2"},
        {"image": "", "label": "Nodule", "x1": "1", "y1": "1", "x2": "2", "y2": "2", "who": ""},
    ]
    file = str(downloads.table("mine/boxes.csv", rows))
    (written,) = downloads.convert(CsvBoxes(file=file, patient_column="who", absent=1))
    first, second = rows_of(written)
    assert (said(first)[0], first["boxes"]) == ("<image>\n\nWhere is the nodule?", [[10.0, 5.0, 30.0, 15.0]])
    assert (second["image"], second["patient"], second["boxes"], said(second)[1]) == (
        "b.png",
        "p2",
        [],
        "There is no nodule.",
    )
    assert left_out(written) == {"'image' is empty": 1}


def test_a_row_that_is_there_twice_is_one_box_and_shares_are_not_taken_for_pixels(downloads):
    row = {"image": "a.png", "label": "Nodule", "x1": "10", "y1": "5", "x2": "30", "y2": "15"}
    (written,) = downloads.convert(CsvBoxes(file=str(downloads.table("mine/boxes.csv", [row, row]))))
    assert rows_of(written)[0]["boxes"] == [[10.0, 5.0, 30.0, 15.0]]
    file = str(downloads.table("mine/shares.csv", [row | {"x1": "0.1", "y1": "0.2", "x2": "0.5", "y2": "1"}]))
    with pytest.raises(UserError, match=r"shares.csv, line 2: no number of any box is above 1.*: give --unit shares"):
        downloads.convert(CsvBoxes(file=file))
    (written,) = downloads.convert(CsvBoxes(file=file, unit="shares"))
    assert rows_of(written)[0]["boxes"] == [[10.0, 10.0, 50.0, 50.0]]


def test_a_notation_that_is_chosen_stands_alone_as_published_sets_have_it(downloads):
    rows = [{"image": "a.png", "label": "Nodule", "x1": "10", "y1": "5", "x2": "30", "y2": "15"}]
    rows += [{**rows[0], "x1": "50", "x2": "60"}]
    file = str(downloads.table("mine/boxes.csv", rows))
    (written,) = downloads.convert(CsvBoxes(file=file))
    assert [said(row)[1] for row in rows_of(written)] == ["The nodule lies at <BOX> and <BOX>."]
    (written,) = downloads.convert(CsvBoxes(file=file, box_format="coloninst"))
    assert [said(row)[1] for row in rows_of(written)] == ["{<10><5><30><15>}, {<50><5><60><15>}"]


def test_columns_units_and_sides_are_named(downloads):
    rows = [{"file": "a.png", "what": "Nodule", "left": "0.1", "top": "0.1", "wide": "0.2", "high": "0.2"}]
    file = str(downloads.table("mine/boxes.csv", rows))
    columns = ("left", "top", "wide", "high")
    converter = CsvBoxes(
        file=file, image_column="file", label_column="what", box_columns=columns, box_numbers="xywh", unit="shares"
    )
    (written,) = downloads.convert(converter)
    assert rows_of(written)[0]["boxes"] == [[10.0, 5.0, 30.0, 15.0]]
    with pytest.raises(UserError, match=r"boxes.csv.*'x1'"):
        downloads.convert(CsvBoxes(file=file, image_column="file", label_column="what"))
