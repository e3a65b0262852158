from helpers.downloads import Downloads, rows_of, said, write_textplus
from medcap.datasets.converters.llava_med_text import LlavaMedText


def test_a_caption_becomes_a_row(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    (written,) = downloads.convert(LlavaMedText())
    assert written.path.name == "llava-med-60k-im-text_train.jsonl"
    (row,) = rows_of(written)
    assert said(row) == ["<image>", "From LLaVA-Med."]
    assert row["image"] == "24_F1.jpg"
    assert row["meta"] == f"dir={tmp_path}/datasets/PMC-VQA-text/images_med60k/images"
