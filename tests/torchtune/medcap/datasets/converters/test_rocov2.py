import pytest

from helpers.downloads import Downloads, left_out, rows_of, said, write_textplus
from medcap.datasets.converters.rocov2 import Rocov2
from medcap.errors import UserError


def test_a_caption_becomes_a_row(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    (written,) = downloads.convert(Rocov2())
    assert written.path.name == "rocov2_train.jsonl"
    (row,) = rows_of(written)
    assert said(row) == ["<image>", "From ROCOv2, a scan."]
    assert row["image"] == "ROCOv2_2023_train_000001.jpg"
    assert row["meta"] == f"dir={tmp_path}/datasets/PMC-VQA-text/train"


def test_a_row_of_another_length_and_one_without_a_caption_are_left_out(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    file = downloads.folder / "PMC-VQA-text/train_captions.csv"
    file.write_text(file.read_text() + "x,a,b\n\nROCOv2_2023_train_000001,\n")
    (written,) = downloads.convert(Rocov2())
    assert left_out(written) == {"not as many fields as the heading": 1, "'Caption' is empty": 1}
    assert written.tally.first["not as many fields as the heading"].endswith("train_captions.csv, line 3")
    assert written.tally.read == 3


def test_a_file_of_other_columns_is_named(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    downloads.text("PMC-VQA-text/train_captions.csv", "ID,CUI\na,b\n")
    with pytest.raises(UserError, match=r"train_captions.csv has no column 'Caption' \(it has: ID, CUI\)"):
        downloads.convert(Rocov2())
    assert not (tmp_path / "out").exists()
