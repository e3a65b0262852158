import pytest
from PIL import Image

from medcap.data.images.reference import ImageRef
from medcap.datasets.published.finding import Layout
from medcap.datasets.published.question import PublishedQuestion
from medcap.errors import UserError
from medcap.evaluation.tasks.official import (
    NO_ANSWER,
    answer_type_of,
    find_benchmark,
    official_row,
    yes_no_type,
)

KINDS = {"json": ("data/test.json", "test.json"), "text": ("*.txt",)}


def find(source):
    return find_benchmark(source, "Bench", Layout(("Bench", "bench-1"), KINDS), "Bench/test.json (by its owner)")


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


def test_answer_types():
    values = ("CLOSED ", "open", "OPEN", "number", None, 3)
    assert [answer_type_of(value) for value in values] == ["CLOSED", "OPEN", "OPEN", "", "", ""]
    answers = (["yes"], ["No."], ["yes", "no"], ["no", "none"], ["left"], [])
    assert [yes_no_type(value) for value in answers] == ["CLOSED", "CLOSED", "CLOSED", "OPEN", "OPEN", "OPEN"]


def row_of(question, answers, image, problem, **meta):
    return official_row(PublishedQuestion("a.json, row 0", "1", question, answers, meta=meta), image, problem)


def test_a_row_is_kept_whatever_it_lacks(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    row = row_of(" Is it?\n<image> ", [4, "", None], ImageRef.of(tmp_path / "a.png"), None, modality="CT", organ=" ")
    assert (row.text, row.references, dict(row.meta), row.problem) == ("Is it?", ("4",), {"modality": "CT"}, None)
    assert row.messages[0].content[0] == {"type": "image", "content": ImageRef.of(tmp_path / "a.png")}
    assert row_of("q", [""], tmp_path / "a.png", None).references == (NO_ANSWER,)
    assert row_of("q", [""], tmp_path / "a.png", None).problem == "the file gives no answer"
    assert row_of(None, ["a"], tmp_path / "a.png", None).problem == "the file gives no question"
    assert row_of("q", ["a"], None, None).problem == "the file names no image"
    assert row_of("", [""], tmp_path / "b.png", "no b.png").problem == "no b.png"


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), True, ["a"], {"a": 1}])
def test_an_answer_that_is_not_a_word_is_no_answer(answer):
    row = row_of("What?", [answer], None, "no image")
    assert row.references == (NO_ANSWER,)
    assert row_of("What?", [3, "b"], None, "no image").references == ("3", "b")
    assert row_of(True, ["a"], None, None).text == ""
