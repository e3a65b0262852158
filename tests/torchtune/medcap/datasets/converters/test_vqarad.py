import pytest

from helpers.downloads import Downloads, rows_of, said, write_vqarad_text
from medcap.datasets.converters.vqarad import VqaRadText
from medcap.errors import UserError


def test_both_parts_have_medcap_s_names(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_vqarad_text(downloads)
    train, test = downloads.convert(VqaRadText())
    assert [train.path.name, test.path.name] == ["vqarad_train.json", "vqarad_test.json"]
    assert said(*rows_of(train)) == ["<image>", "A clear chest."]
    assert said(*rows_of(test)) == ["<image>", "A brain with a mass."]
    assert rows_of(test)[0]["image"] == "y.jpg"
    assert rows_of(test)[0]["meta"] == f"dir={tmp_path}/datasets/VQA_RAD/VQA_RAD Image Folder"


def test_without_the_test_part_nothing_is_written(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_vqarad_text(downloads)
    (downloads.folder / "VQA_RAD/test_text.json").unlink()
    with pytest.raises(UserError, match=r"test_text.json does not exist: download myeongkyunkang/VQA-RAD-text"):
        downloads.convert(VqaRadText())
    assert not (tmp_path / "out").exists()
