from helpers.downloads import Downloads, rows_of, said, write_textplus
from medcap.datasets.converters.pmcvqa_text import PmcVqaText


def test_a_caption_becomes_a_row(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    (written,) = downloads.convert(PmcVqaText())
    assert written.path.name == "pmcvqa-text_train.jsonl"
    (row,) = rows_of(written)
    assert said(row) == ["<image>", "From PMC-VQA."]
    assert row["image"] == "PMC3_1.jpg"
    assert row["meta"] == f"dir={tmp_path}/datasets/PMC-VQA-text/images"
