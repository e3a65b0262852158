import pytest

from helpers.downloads import Downloads, left_out, rows_of, said
from medcap.data.row_layouts import read_record
from medcap.datasets.converters.iu_xray import IuXray
from medcap.errors import UserError

NAMES = ["CXR1_IM-1/0.png", "CXR1_IM-1/1.png"]


def test_a_report_becomes_a_row_with_both_views(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    downloads.images("iu_xray/images", *NAMES)
    row = {"id": "CXR1_IM-1", "report": "Clear lungs.", "image_path": NAMES}
    rows = [
        row,
        row | {"image_path": [NAMES[0], "CXR1_IM-1/2.png"]},
        row | {"report": " "},
        row | {"image_path": ["../x.png"]},
        row | {"image_path": None},
    ]
    downloads.array("iu_xray/annotation.json", {"train": rows, "val": [], "test": [row]})
    (written,) = downloads.convert(IuXray())
    (made,) = rows_of(written)
    words = "Write the findings of the radiology report of these chest X-rays."
    assert said(made) == [f"<image>\n<image>\n\n{words}", "Clear lungs."]
    assert (made["image"], made["patient"]) == (NAMES, "CXR1")
    assert left_out(written) == {
        "the image is missing": 1,
        "'report' is empty": 1,
        "the image's name leads out of its folder": 1,
        "'image_path' is not a list of names": 1,
    }
    record = read_record(made, written.path, 0, lambda name, folder: f"{folder}/{name}")
    assert [part["type"] for part in record.messages[0].content] == ["image", "text", "image", "text"]


def test_a_split_that_lacks_is_named(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    downloads.images("iu_xray/images", *NAMES)
    downloads.array("iu_xray/annotation.json", {"train": []})
    with pytest.raises(UserError, match=r"it has no list 'val' \(it has: train\)"):
        downloads.convert(IuXray(split="validation"))
