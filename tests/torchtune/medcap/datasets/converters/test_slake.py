import pytest

from helpers.downloads import Downloads, left_out, picture, rows_of, said, write_slake
from medcap.datasets.converters.slake import Slake


@pytest.mark.parametrize(
    ("converter", "name", "answers", "others"),
    [
        (Slake(), "slake_train.jsonl", ["Liver"], 1),
        (Slake(language="zh"), "slake-zh_train.jsonl", ["肝脏"], 1),
        (Slake(language="all"), "slake-all_train.jsonl", ["Liver", "肝脏"], 0),
        (Slake(split="validation"), "slake_validation.jsonl", ["Spleen"], 0),
    ],
)
def test_questions_of_a_language(tmp_path, converter, name, answers, others):
    downloads = Downloads(tmp_path / "datasets")
    write_slake(downloads)
    (written,) = downloads.convert(converter)
    assert written.path.name == name
    assert [said(row)[1] for row in rows_of(written)] == answers
    assert sum(left_out(written).values()) == others
    assert rows_of(written)[0]["image"] == "xmlab0/source.jpg"


def test_the_hub_s_english_copy(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    row = {"image": {"bytes": picture(), "path": None}, "question": "Which organ?", "answer": "Liver"}
    downloads.parquet("SLAKE-vqa-english/data/train-00000-of-00001.parquet", [row])
    (written,) = downloads.convert(Slake())
    assert [said(row) for row in rows_of(written)] == [["<image>\n\nWhich organ?", "Liver"]]
