import pytest

from helpers.downloads import Downloads, left_out, rows_of, said, write_vqamed
from medcap.datasets.converters.vqamed import VqaMed
from medcap.errors import UserError


@pytest.mark.parametrize(
    ("converter", "name", "turns", "image"),
    [
        (VqaMed(), "vqamed2019_train.jsonl", ["<image>\n\nwhat plane is this?", "axial"], "synpic1.jpg"),
        (VqaMed("2020"), "vqamed2020_train.jsonl", ["<image>\n\nwhat is abnormal?", "cyst | left"], "synpic2.png"),
    ],
)
def test_lines_of_a_year(tmp_path, converter, name, turns, image):
    downloads = Downloads(tmp_path / "datasets")
    write_vqamed(downloads)
    (written,) = downloads.convert(converter)
    assert written.path.name == name
    (row,) = rows_of(written)
    assert (said(row), row["image"]) == (turns, image)


def test_an_archive_may_be_unpacked_without_its_folder(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    downloads.images("VQA-Med-2021/ImageCLEF-2021-VQA-Med-New-Validation-Images", "synpic3.jpg")
    lines = b"\xef\xbb\xbfsynpic3|what is it?|caf\xe9\n\nsynpic3|cut\nsynpic3||a\nsynpic4|q|a\n"
    (downloads.folder / "VQA-Med-2021/VQA-Med-2021-VQAnswering-Task1-New-ValidationSet.txt").write_bytes(lines)
    (written,) = downloads.convert(VqaMed("2021", "validation"))
    assert [said(row)[1] for row in rows_of(written)] == ["café"]
    assert left_out(written) == {
        "expected image|question|answer": 1,
        "'question' is empty": 1,
        "the image is missing": 1,
    }


def test_2021_has_no_training_set(tmp_path):
    with pytest.raises(UserError, match=r"--year 2021 has no train set: use --year 2020 or --split validation"):
        Downloads(tmp_path / "datasets").convert(VqaMed("2021"))
