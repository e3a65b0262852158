"""A stray quote must not swallow rows; a field of several lines that is meant as one is read."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcap.datasets.rows.delimited import (
    BEHIND_QUOTE,
    LIKE_ROWS,
    NOT_CLOSED,
    WRONG_COUNT,
    delimiter_of,
    read_heading,
    read_records,
)
from medcap.errors import UserError

FEW = settings(derandomize=True, deadline=None, max_examples=60, database=None)


def records(folder, text, name="a.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    delimiter = delimiter_of(path)
    return list(read_records(path, read_heading(path, (), delimiter), delimiter))


def shown(folder, text, name="a.csv"):
    return [record.problem or record.fields for record in records(folder, text, name)]


def test_a_tab_separated_file_has_no_quoting(tmp_path):
    text = 'image\ttext\n1.jpg\t"Halo\n2.jpg\tA 5" tube\n3.jpg\t"Coin" lesion\n4.jpg\t""\n'
    assert shown(tmp_path, text, "a.TSV") == [
        ["1.jpg", '"Halo'],
        ["2.jpg", 'A 5" tube'],
        ["3.jpg", '"Coin" lesion'],
        ["4.jpg", '""'],
    ]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # The quote closes before other words.
        (['1.jpg,"Halo', "2.jpg,Normal", '3.jpg,"Effusion, left"', "4.jpg,No"], [BEHIND_QUOTE, ["4.jpg", "No"]]),
        (['1.jpg,"Halo" sign', "2.jpg,Normal"], [BEHIND_QUOTE, ["2.jpg", "Normal"]]),
        (['1.jpg,"He said \\"x\\" twice"', "2.jpg,Normal"], [BEHIND_QUOTE, ["2.jpg", "Normal"]]),
        # It never closes.
        (["1.jpg,Normal", '2.jpg,"Halo', "3.jpg,No"], [["1.jpg", "Normal"], NOT_CLOSED]),
        # It closes at the end of another row, as inches are written.
        (['1.jpg,"Halo', "2.jpg,Normal", '3.jpg,A tube of 5"', "4.jpg,No"], [LIKE_ROWS, ["4.jpg", "No"]]),
        (['1.jpg,"Halo', '2.jpg,A tube of 5"', "4.jpg,No"], [LIKE_ROWS, ["4.jpg", "No"]]),
        (['a_1,"Halo', "a_2,Normal", 'a_3,5"'], [LIKE_ROWS]),
        (['17,"Halo', "18,Normal", '19,5"'], [LIKE_ROWS]),
        (["1.jpg,a,b", "2.jpg"], [WRONG_COUNT, WRONG_COUNT]),
    ],
)
def test_rows_that_a_quote_runs_over_are_damaged(tmp_path, rows, expected):
    for end in ("\n", "\r\n"):
        assert shown(tmp_path, end.join(["image,text", *rows, ""])) == expected


def test_rows_are_swallowed_before_the_image_too(tmp_path):
    assert shown(tmp_path, 'text,image\n"Halo,1.jpg\nNormal,2.jpg\n5",3.jpg\nNo,4.jpg\n') == [
        LIKE_ROWS,
        ["No", "4.jpg"],
    ]


@pytest.mark.parametrize(
    "text",
    [
        "one\ntwo",
        "FINDINGS: clear, normal.\nNo effusion, no consolidation.\n\nIMPRESSION: normal, stable",
        'a "quoted" word,\nand\na tube of 5"',
        "Cardiomegaly,\nmild, left",
        "1. nodule, left\n2. effusion, right",
    ],
)
def test_a_field_of_several_lines_is_read_as_pandas_writes_it(tmp_path, text):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"image": ["a/1.jpg", "2.jpg", "3.jpg"], "text": ["Normal", text, "No"]})
    table.to_csv(tmp_path / "t.csv", index=False)
    content = (tmp_path / "t.csv").read_text(encoding="utf-8")
    assert shown(tmp_path, content) == [["a/1.jpg", "Normal"], ["2.jpg", text], ["3.jpg", "No"]]


def test_where_a_record_stands(tmp_path):
    first, second, third = records(tmp_path, 'image,text\n1.jpg,a\n2.jpg,"b\nc"\n\n3.jpg,"d\n')
    assert (first.location, second.location, second.last, third.location) == ("line 2", "lines 3 to 4", 4, "line 6")


@pytest.mark.parametrize(
    ("heading", "message"),
    [
        ("image,text,text", "has 2 columns 'text': rename or remove all but one"),
        ("id,image,id,id", "has 3 columns 'id'"),
        ('"text",image,text', "has 2 columns 'text'"),
        ('image,"text', "the heading is damaged: a quote is not closed"),
        ("picture,text", r"has no column 'image' \(it has: picture, text\)"),
        ('{"rows": [], "columns": []}', r"has no column 'image': it is JSON and no table$"),
        ("id;picture", r"has no column 'image': its fields seem to be separated by semicolons; save it with commas"),
        ("id\tpicture", r"has no column 'image': its fields seem to be separated by tabs; save it with commas"),
        ("x" * 300, r"\(it has: x{200} \.\.\.\)"),
    ],
)
def test_a_heading_that_cannot_be_used_is_named(tmp_path, heading, message):
    path = tmp_path / "a.csv"
    path.write_text(f"{heading}\n1,2,3\n")
    with pytest.raises(UserError, match=message):
        read_heading(path, ["image"] if "image" not in heading else [])


def test_columns_without_a_name_may_be_several(tmp_path):
    assert shown(tmp_path, ",,image\n1,2,a.jpg\n") == [["1", "2", "a.jpg"]]


def test_a_folder_is_called_a_folder(tmp_path):
    with pytest.raises(UserError, match="is a folder: name a file in it"):
        read_heading(tmp_path)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)


@pytest.mark.slow
@FEW
@given(rows=st.lists(st.tuples(st.integers(0, 99), TEXTS), max_size=4))
def test_what_a_csv_writer_wrote_is_read_or_named_but_never_swallowed(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    written = [[f"{number}.jpg", text] for number, text in rows]
    table = io.StringIO(newline="")
    csv.writer(table).writerows([["image", "text"], *written])
    found = records(folder, table.getvalue())
    assert len(found) == len(written)
    for record, row in zip(found, written, strict=True):
        assert record.fields == row


@FEW
@given(text=st.lists(st.sampled_from(['"', ",", "\n", "a", "b.jpg", " ", "\t"]), max_size=20).map("".join))
def test_any_text_is_read_or_named(text, tmp_path_factory):
    for name in ("a.csv", "a.tsv"):
        for record in records(tmp_path_factory.mktemp("rows"), f"image,text\n{text}", name):
            assert record.problem is not None or len(record.fields) in (1, 2)
