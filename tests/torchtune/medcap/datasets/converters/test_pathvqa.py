import pytest

from helpers.downloads import Downloads, rows_of, said, write_pathvqa
from medcap.datasets.converters.pathvqa import PathVqa
from medcap.errors import UserError


def test_questions_of_one_picture_share_its_file(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_pathvqa(downloads)
    (written,) = downloads.convert(PathVqa())
    assert [said(row) for row in rows_of(written)] == [
        ["<image>\n\nwhere are the cells?", "in the lumen"],
        ["<image>\n\nis it benign?", "no"],
    ]
    assert len({row["image"] for row in rows_of(written)}) == 1
    assert len(list((tmp_path / "out/pathvqa_images").iterdir())) == 1


def test_json_rows_of_either_layout(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    downloads.images("path-vqa/images/validation", "val_0001.jpg")
    turns = [{"from": "human", "value": "Where is this?\n<image>"}, {"from": "gpt", "value": "urinary"}]
    downloads.array(
        "path-vqa/val.json",
        [
            {"image": "val_0001", "question": "What is it?", "answer": "a cell"},
            {"image": "val_0001.jpg", "conversations": turns},
        ],
    )
    (written,) = downloads.convert(PathVqa("validation"))
    assert [said(row) for row in rows_of(written)] == [
        ["<image>\n\nWhat is it?", "a cell"],
        ["Where is this?\n<image>", "urinary"],
    ]
    assert [row["image"] for row in rows_of(written)] == ["val_0001.jpg"] * 2


def test_pickles_are_not_opened(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    downloads.text("pvqa/qas/train/train_qa.pkl", "x")
    with pytest.raises(UserError, match=r"flaviagiammarino/path-vqa .*pickles are not opened"):
        downloads.convert(PathVqa())
