import pytest
from PIL import Image

from medcap.errors import UserError
from medcap.evaluation.tasks.official import (
    NO_ANSWER,
    answer_type_of,
    find_benchmark,
    official_row,
    read_csv,
    read_fields,
    read_json,
    yes_no_type,
)

KINDS = {"json": ("data/test.json", "test.json"), "text": ("*.txt",)}


def find(source):
    return find_benchmark(source, "Bench", ("Bench", "bench-1"), KINDS, "Bench/test.json (by its owner)")


def make(path, text="[]"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_benchmark_s_folder_is_found_below_the_source_or_is_the_source(tmp_path):
    path = make(tmp_path / "bench-1" / "test.json")
    for source in (tmp_path, tmp_path / "bench-1"):
        found = find(source)
        assert (found.folder, found.kind, found.files, found.named) == (path.parent, "json", [path], False)
    # The folder of the first name wins, and of its files those of the first kind.
    make(tmp_path / "Bench" / "b.txt")
    assert find(tmp_path).kind == "text"
    make(tmp_path / "Bench" / "data" / "test.json")
    assert find(tmp_path).files == [tmp_path / "Bench" / "data" / "test.json"]


def test_files_are_sorted_and_hidden_ones_left_out(tmp_path):
    for name in ("b.txt", "a.txt", "._a.txt", "c d.txt"):
        make(tmp_path / name)
    assert [path.name for path in find(tmp_path).files] == ["a.txt", "b.txt", "c d.txt"]


def test_a_file_may_be_named_and_tells_the_folder_by_where_it_lies(tmp_path):
    path = make(tmp_path / "x" / "data" / "test.json")
    found = find(path)
    assert (found.folder, found.files, found.named) == (tmp_path / "x", [path], True)
    other = make(tmp_path / "y" / "mine.json")
    assert (find(other).folder, find(other).kind) == (tmp_path / "y", "json")
    with pytest.raises(UserError, match=r"z.csv is not a file of Bench: expected is Bench/test.json"):
        find(make(tmp_path / "z.csv"))


def test_what_is_missing_is_said_with_what_belongs_there(tmp_path):
    with pytest.raises(UserError, match=r"Bench is not in .*: it must hold Bench/test.json \(by its owner\)"):
        find(tmp_path)
    with pytest.raises(UserError, match=r"dataset_source: .*none does not exist; for Bench it must hold Bench/test"):
        find(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"a": 1},\n{"a": 2', r"line 3: not valid JSON .* download the file again"),
        ('{"a": 1}\n{"a"\n', r"line 2: not valid JSON .* download the file again"),
        ('[{"a": 1}, 3]', r"row 1: must be an object, not int; .* download the file again"),
        ("", "is empty"),
    ],
)
def test_a_damaged_json_file_is_named_with_the_line(tmp_path, text, message):
    with pytest.raises(UserError, match=f"test.json.*{message}"):
        list(read_json(make(tmp_path / "test.json", text)))


def test_csv_fields_stay_the_text_that_they_are(tmp_path):
    path = make(tmp_path / "a.csv", '\ufeffq,a\r\n"x, ""y""\nz",None\r\nNA,\r\n')
    assert list(read_csv(path)) == [(0, {"q": 'x, "y"\nz', "a": "None"}), (1, {"q": "NA", "a": ""})]


@pytest.mark.parametrize("row", ["1", "1,2,3"])
def test_a_csv_row_of_another_length_is_named_with_the_line(tmp_path, row):
    path = make(tmp_path / "a.csv", f"q,a\n0,0\n{row}\n")
    with pytest.raises(UserError, match=r"a.csv, line 3: .* 2 fields of the heading; .* download the file again"):
        list(read_csv(path))


def test_a_csv_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"q,a\n\xff\xfe\x00,1\n")
    with pytest.raises(UserError, match=r"a.csv: not a readable CSV file"):
        list(read_csv(tmp_path / "a.csv"))


def test_lines_between_bars_are_read_in_either_encoding(tmp_path):
    (tmp_path / "a.txt").write_bytes("1|é |x\r\n\r\n2|b|\n".encode("cp1252"))
    assert list(read_fields(tmp_path / "a.txt", 2, "id|q")) == [(1, ["1", "é", "x"]), (3, ["2", "b", ""])]
    make(tmp_path / "b.txt", "1|é\n2\n")
    with pytest.raises(UserError, match=r"b.txt, line 2: expected id\|q; .* download the file again"):
        list(read_fields(tmp_path / "b.txt", 2, "id|q"))


def test_answer_types():
    values = ("CLOSED ", "open", "OPEN", "number", None, 3)
    assert [answer_type_of(value) for value in values] == ["CLOSED", "OPEN", "OPEN", "", "", ""]
    answers = (["yes"], ["No."], ["yes", "no"], ["no", "none"], ["left"], [])
    assert [yes_no_type(value) for value in answers] == ["CLOSED", "CLOSED", "CLOSED", "OPEN", "OPEN", "OPEN"]


def test_a_row_is_kept_whatever_it_lacks(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    row = official_row("1", " Is it?\n<image> ", [4, "", None], tmp_path / "a.png", None, modality="CT", organ=" ")
    assert (row.text, row.references, dict(row.meta), row.problem) == ("Is it?", ("4",), {"modality": "CT"}, None)
    assert row.messages[0].content[0] == {"type": "image", "content": str(tmp_path / "a.png")}
    assert official_row("1", "q", [""], tmp_path / "a.png", None).references == (NO_ANSWER,)
    assert official_row("1", "q", [""], tmp_path / "a.png", None).problem == "the file gives no answer"
    assert official_row("1", None, ["a"], tmp_path / "a.png", None).problem == "the file gives no question"
    assert official_row("1", "q", ["a"], None, None).problem == "the file names no image"
    assert official_row("1", "", [""], tmp_path / "b.png", "no b.png").problem == "no b.png"


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), True, ["a"], {"a": 1}])
def test_an_answer_that_is_no_word_is_no_answer(answer):
    row = official_row("1", "What?", [answer], None, "no image")
    assert row.references == (NO_ANSWER,)
    assert official_row("1", "What?", [3, "b"], None, "no image").references == ("3", "b")
    assert official_row("1", True, ["a"], None, None).text == ""


def test_rows_that_a_quote_runs_over_and_repeated_columns_are_named(tmp_path):
    path = make(tmp_path / "a.csv", 'image,q\n1.jpg,"Halo\n2.jpg,Is it 5"\n')
    with pytest.raises(UserError, match=r"a.csv, lines 2 to 3: damaged: a quoted field runs over lines .* again"):
        list(read_csv(path))
    with pytest.raises(UserError, match="has 2 columns 'q'"):
        list(read_csv(make(tmp_path / "b.csv", "image,q,q\n1,2,3\n")))
    assert list(read_csv(make(tmp_path / "c.csv", 'image,q\n1.jpg,"Is it\nclear?"\n'))) == [
        (0, {"image": "1.jpg", "q": "Is it\nclear?"})
    ]
