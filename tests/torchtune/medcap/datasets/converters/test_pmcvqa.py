import pytest

from helpers.downloads import Downloads, left_out, rows_of, said, write_pmcvqa
from medcap.datasets.converters.pmcvqa import PmcVqa
from medcap.errors import UserError

LISTED = "<image>\n\nWhat is seen?\nA. Cyst\nB. Diffuse uptake\nC. Mass\nD. None"


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_pmcvqa(downloads)
    return downloads


@pytest.mark.parametrize(
    ("converter", "turns", "image"),
    [
        (PmcVqa(), [LISTED, "Diffuse uptake"], "images/PMC1.jpg"),
        (PmcVqa(version="2"), [LISTED, "Mass"], "images_2/PMC2.jpg"),
        (PmcVqa(options="hidden"), ["<image>\n\nWhat is seen?", "Diffuse uptake"], "images/PMC1.jpg"),
    ],
)
def test_a_question_becomes_a_row(downloads, converter, turns, image):
    (written,) = downloads.convert(converter)
    (row,) = rows_of(written)
    assert written.path.name == ("pmcvqa2_train.jsonl" if converter.version == "2" else "pmcvqa_train.jsonl")
    assert said(row) == turns
    assert row["image"] == image
    assert row["meta"] == f"dir={downloads.folder}/PMC-VQA"


def test_without_a_right_answer_there_is_nothing_to_learn(downloads):
    file = downloads.folder / "PMC-VQA/train.csv"
    file.write_text(file.read_text() + "PMC1.jpg,c,q, ,A:a,B:b,C:c,D:d,\n")
    (written,) = downloads.convert(PmcVqa())
    assert left_out(written) == {"there is no right answer": 1}


def test_a_file_of_other_columns_is_named(downloads):
    downloads.text("PMC-VQA/train.csv", "Figure_path,Question\na,b\n")
    with pytest.raises(UserError, match=r"train.csv has no column 'Choice A'"):
        downloads.convert(PmcVqa())
    assert not (downloads.folder.parent / "out").exists()
