from pathlib import Path

import pytest

from helpers.downloads import Downloads, picture
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.captions.rocov2 import Rocov2Task

FIRST, SECOND = "ROCOv2_2023_test_000001", "ROCOv2_2023_test_000002"


@pytest.mark.parametrize("folder", ["ROCOv2", "PMC-VQA-text"])
def test_the_table_and_its_images_are_read(tmp_path, folder):
    downloads = Downloads(tmp_path)
    downloads.images(f"{folder}/test", f"{FIRST}.jpg")
    rows = [{"ID": FIRST, "Caption": "A chest CT, axial."}, {"ID": SECOND, "Caption": "An MRI."}]
    downloads.table(f"{folder}/test_captions.csv", [*rows, {"ID": FIRST, "Caption": ""}])
    benchmark = Rocov2Task().load(tmp_path)
    first, lost, empty = benchmark.rows
    assert (first.id, first.text, first.references) == (FIRST, "", ("A chest CT, axial.",))
    assert [part["type"] for part in first.messages[0].content] == ["image"]
    assert first.image.path == str(tmp_path / folder / "test" / f"{FIRST}.jpg")
    assert f"image {SECOND}.jpg does not exist" in lost.problem
    assert (empty.id, empty.problem) == (f"{FIRST}#2", "the file gives no caption")
    assert benchmark.notices[0] == "read 3 rows; the published test set has 9,927"
    assert "2 of 3 rows cannot be asked" in benchmark.notices[1]


def test_the_hub_s_copy_has_its_images_inside(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    image = {"bytes": picture(), "path": None}
    rows = [
        {"image": image, "image_id": FIRST, "caption": "A chest CT.", "cui": ["C0040405"]},
        {"image": None, "image_id": SECOND, "caption": "An MRI.", "cui": []},
    ]
    downloads.parquet("ROCOv2-radiology/data/test-00000-of-00001.parquet", rows)
    first, lost = Rocov2Task().load(downloads.folder, LoadOptions(work_folder=tmp_path / "work")).rows
    assert (first.id, first.references) == (FIRST, ("A chest CT.",))
    assert Path(first.image.path).read_bytes() == picture()
    assert lost.problem == "the file holds no image 1"


def test_a_damaged_row_and_another_table_are_named(tmp_path):
    downloads = Downloads(tmp_path)
    downloads.images("ROCOv2/test", f"{FIRST}.jpg")
    downloads.text("ROCOv2/test_captions.csv", f"ID,Caption\n{FIRST},a,b\n")
    with pytest.raises(UserError, match=r"test_captions.csv, line 2: not as many fields as the heading"):
        Rocov2Task().load(tmp_path)
    downloads.text("ROCOv2/test_captions.csv", f"ID,CUIs\n{FIRST},C1\n")
    with pytest.raises(UserError, match=r"test_captions.csv has no column 'Caption'"):
        Rocov2Task().load(tmp_path)
