import pytest

from helpers.downloads import Downloads
from medcap.errors import UserError
from medcap.evaluation.tasks.captions.iu_xray import IuXrayTask

NAME = "CXR2384_IM-0942"


def row(**changes):
    images = [f"{NAME}/0.png", f"{NAME}/1.png"]
    return {"id": NAME, "report": "Heart size is normal.", "image_path": images, "split": "test"} | changes


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path)
    downloads.images("iu_xray/images", f"{NAME}/0.png", f"{NAME}/1.png")
    return downloads


def test_a_report_of_r2gen_s_test_split_is_asked_of_both_views(downloads):
    downloads.array("iu_xray/annotation.json", {"train": [row(id="x")], "val": [], "test": [row()]})
    benchmark = IuXrayTask().load(downloads.folder)
    (loaded,) = benchmark.rows
    assert [image.path.rpartition("/")[2] for image in loaded.images] == ["0.png", "1.png"]
    assert loaded.text == "Write the findings of the radiology report of these chest X-rays."
    assert (loaded.id, loaded.references, loaded.meta) == (NAME, ("Heart size is normal.",), {"patient": "CXR2384"})
    assert benchmark.notices == ["read 1 row; the published test set has 590"]


def test_medevalkit_s_rows_have_both_sections_as_the_reference(downloads):
    images = [f"{NAME}/0.png"]
    rows = [
        {"image": images, "findings": "Clear lungs.", "impression": ""},
        {"image_path": images, "section_findings": "", "section_impression": "Normal"},
        {"image": images, "findings": "", "impression": " "},
    ]
    downloads.array("iu_xray/test.json", rows)
    first, second, empty = IuXrayTask().load(downloads.folder).rows
    assert first.references == ("Findings: Clear lungs. Impression: None.",)
    assert second.references == ("Findings: None Impression: Normal.",)
    assert first.text.endswith("findings, then impression.")
    assert first.meta == {"patient": "CXR2384"}
    assert empty.problem == "the file gives no caption"


def test_what_lacks_is_named_and_counted(downloads):
    rows = [row(), row(id="lost", image_path=["lost/0.png"]), row(id="none", image_path=None), row(id="", report=None)]
    downloads.array("iu_xray/annotation.json", {"test": rows})
    benchmark = IuXrayTask().load(downloads.folder)
    assert [question.problem and question.problem.partition(":")[0] for question in benchmark.rows][2:] == [
        "the file names no image",
        "the file gives no caption",
    ]
    assert "image lost/0.png does not exist" in benchmark.rows[1].problem
    assert "3 of 4 rows cannot be asked" in benchmark.notices[1]
    downloads.array("iu_xray/annotation.json", [row()])
    with pytest.raises(UserError, match=r"is not R2Gen's annotation.json of IU X-Ray: it has no list 'test'"):
        IuXrayTask().load(downloads.folder)
    downloads.text("iu_xray/annotation.json", '{"test": [')
    with pytest.raises(UserError, match=r"annotation.json: not valid JSON"):
        IuXrayTask().load(downloads.folder)
