import pytest

from helpers.downloads import Downloads, left_out, picture, rows_of, said, write_vqarad
from medcap.datasets.converters.vqarad_qa import VqaRadQuestions
from medcap.errors import UserError


def test_the_questions_of_the_test_set_are_left_out(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_vqarad(downloads)
    (written,) = downloads.convert(VqaRadQuestions())
    assert [said(row) for row in rows_of(written)] == [["<image>\n\nIs it clear?", "Yes"]]
    assert left_out(written) == {"a question of the test set": 1}


def test_the_hub_s_copy_has_its_images_taken_out(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    image = {"bytes": picture(), "path": None}
    rows = [{"image": image, "question": "q", "answer": "a"}, {"image": None, "question": "q", "answer": "a"}]
    downloads.parquet("vqa-rad/data/train-00000-of-00001.parquet", rows)
    (written,) = downloads.convert(VqaRadQuestions())
    (row,) = rows_of(written)
    assert (tmp_path / "out/vqarad-qa_images" / row["image"]).read_bytes() == picture()
    assert row["meta"] == f"dir={tmp_path}/out/vqarad-qa_images"
    assert left_out(written) == {"there is no image in the file": 1}


def test_either_source_is_named_where_both_are_missing(tmp_path):
    with pytest.raises(UserError, match=r"node 89kps.*flaviagiammarino/vqa-rad"):
        Downloads(tmp_path / "datasets").convert(VqaRadQuestions())
