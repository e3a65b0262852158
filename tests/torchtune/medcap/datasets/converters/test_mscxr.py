import pytest

from helpers.downloads import Downloads, left_out, picture, rows_of, said
from medcap.datasets.conversion.writing import MISSING
from medcap.datasets.converters.mscxr import MsCxr
from medcap.errors import UserError

FILE = "MS-CXR/MS_CXR_Local_Alignment_v1.1.0.csv"
PATH = "files/p10/p10000032/s50414267/a.jpg"


def line(sentence, box, path=PATH, split="train", **changes):
    numbers = dict(zip("xywh", map(str, box), strict=True))
    row = {"dicom_id": "a", "category_name": "Pleural Effusion", "label_text": sentence, "path": path, **numbers}
    return row | {"image_width": "200", "image_height": "100", "split": split} | changes


def write(tmp_path, lines):
    downloads = Downloads(tmp_path / "datasets")
    downloads.table(FILE, lines)
    downloads.text(f"MIMIC-CXR-JPG/{PATH}", "").write_bytes(picture(size=(100, 50)))
    return downloads


def test_the_boxes_of_a_sentence_are_one_answer_and_fit_a_smaller_copy(tmp_path):
    downloads = write(
        tmp_path,
        [
            line("small left  effusion", (20, 10, 40, 20)),
            line("enlarged heart", (0, 0, 100, 100), category_name="Cardiomegaly"),
            line("small left effusion", (120, 10, 40, 20)),
            line("of another part", (1, 1, 2, 2), split="test"),
        ],
    )
    (written,) = downloads.convert(MsCxr())
    assert written.path.name == "ms-cxr_train.jsonl"
    first, second = rows_of(written)
    assert said(first) == ["<image>\n\nWhere is this finding: small left effusion", "It lies at <BOX> and <BOX>."]
    assert first["boxes"] == [[10.0, 5.0, 30.0, 15.0], [60.0, 5.0, 80.0, 15.0]]
    assert (first["patient"], first["image_size"], first["image"]) == ("p10000032", [100, 50], PATH)
    assert (second["phrase"], second["boxes"]) == ("enlarged heart", [[0.0, 0.0, 50.0, 50.0]])
    (written,) = downloads.convert(MsCxr(split="test", box_format="shares"))
    assert said(rows_of(written)[0])[1] == "[0.0050, 0.0100, 0.0150, 0.0300]"


@pytest.mark.parametrize(("width", "height"), [("200.0", "100.0"), (" 200", "100 ")])
def test_a_size_that_pandas_wrote_is_a_size(tmp_path, width, height):
    downloads = write(tmp_path, [line("a", (20, 10, 40, 20), image_width=width, image_height=height)])
    (written,) = downloads.convert(MsCxr())
    assert rows_of(written)[0]["boxes"] == [[10.0, 5.0, 30.0, 15.0]]  # the copy is half as large


def test_missing_images_and_files_of_another_shape_are_counted(tmp_path):
    lines = [
        line("a", (1, 1, 2, 2)),
        line("b", (1, 1, 2, 2), path=PATH.replace("a.jpg", "b.jpg")),
        line("c", (1, 1, 2, 2), path=PATH.replace("a.jpg", "c.jpg"), image_height="150"),
        line("", (1, 1, 2, 2)),
        line("d", (1, 1, 2, 2), path="files/../../d.jpg"),
        line("e", ("x", 1, 2, 2)),
    ]
    downloads = write(tmp_path, lines)
    downloads.text(f"MIMIC-CXR-JPG/{PATH.replace('a.jpg', 'c.png')}", "").write_bytes(picture(size=(100, 50)))
    (written,) = downloads.convert(MsCxr())
    assert [row["phrase"] for row in rows_of(written)] == ["a"]
    assert left_out(written) == {
        MISSING: 1,
        "the image has another shape than the file says": 1,
        "a line without a sentence or a path": 2,
        "a box is not four numbers": 1,
    }


def test_a_file_without_splits_is_whole(tmp_path):
    lines = [{key: value for key, value in line("a", (1, 1, 2, 2)).items() if key != "split"}]
    downloads = write(tmp_path, lines)
    with pytest.raises(UserError, match=r"has no column 'split', as before version 1\.1\.0"):
        downloads.convert(MsCxr())
    (written,) = downloads.convert(MsCxr(split="all"))
    assert written.rows == 1
