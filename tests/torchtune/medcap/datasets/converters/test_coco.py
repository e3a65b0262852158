import pytest

from helpers.downloads import Downloads, left_out, picture, rows_of, said
from medcap.datasets.conversion.writing import MISSING
from medcap.datasets.converters.coco import CocoBoxes
from medcap.errors import UserError


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    downloads.text("ct/a.png", "").write_bytes(picture(size=(100, 50)))
    return downloads


def write(downloads, **changes):
    content = {
        "images": [{"id": 7, "file_name": "ct/a.png", "width": 200, "height": 100, "patient": 3}],
        "annotations": [{"image_id": 7, "category_id": 1, "bbox": [20, 10, 40, 20], "words": "the big one"}],
        "categories": [{"id": 1, "name": "Left_Kidney"}, {"id": 2, "name": "Liver"}],
    }
    return str(downloads.array("mine/instances.json", content | changes))


def test_an_annotation_is_a_box_in_the_image_s_own_pixels(downloads):
    file = write(downloads)
    (written,) = downloads.convert(CocoBoxes(file=file, kinds=("REC", "REG")))
    assert written.path.name == "instances.jsonl"
    first, second = rows_of(written)
    assert said(first) == ["<image>\n\nWhere is the left kidney?", "The left kidney lies at <BOX>."]
    assert (first["boxes"], first["image_size"], first["patient"]) == ([[10.0, 5.0, 30.0, 15.0]], [100, 50], "3")
    assert said(second) == ["<image>\n\nWhat is in the box [100, 100, 300, 300]?", "left kidney"]
    (written,) = downloads.convert(CocoBoxes(file=file, phrase_key="words"))
    assert said(rows_of(written)[0])[0] == "<image>\n\nWhere is the big one?"


@pytest.mark.parametrize("sides", [(200.0, 100.0), ("200", "100")])
def test_sides_may_be_whole_floats_or_text(downloads, sides):
    image = {"id": 7, "file_name": "ct/a.png", "width": sides[0], "height": sides[1]}
    (written,) = downloads.convert(CocoBoxes(file=write(downloads, images=[image])))
    assert rows_of(written)[0]["boxes"] == [[10.0, 5.0, 30.0, 15.0]]


def test_an_id_of_two_images_is_of_neither_and_shares_are_refused(downloads):
    (downloads.folder / "ct/b.png").write_bytes(picture(size=(100, 50)))
    images = [{"id": number, "file_name": f"ct/{name}.png"} for number, name in ((7, "a"), (7, "b"), (8, "b"))]
    boxes = [{"image_id": number, "category_id": 1, "bbox": ["20", "10", "40", "20"]} for number in (7, 8)]
    file = write(downloads, images=images, annotations=boxes)
    (written,) = downloads.convert(CocoBoxes(file=file))
    assert [(row["image"], row["boxes"]) for row in rows_of(written)] == [("ct/b.png", [[20.0, 10.0, 60.0, 30.0]])]
    assert left_out(written) == {
        "an annotation of an id that several images have": 1,
        "an image whose id another one has, too": 2,
    }
    shares = [{"image_id": 7, "category_id": 1, "bbox": [0.1, 0.2, 0.4, 0.2]}]
    with pytest.raises(
        UserError, match=r"no number of any box is above 1, so they are shares .* COCO's boxes are pixels"
    ):
        downloads.convert(CocoBoxes(file=write(downloads, annotations=shares)))


def test_a_misspelt_patient_and_another_kind_of_file_are_named(downloads, tmp_path):
    file = write(downloads)
    with pytest.raises(UserError, match=r"--patient-key patent: no image of .*instances.json has this field"):
        downloads.convert(CocoBoxes(file=file, patient_key="patent"))
    table = tmp_path / "boxes.csv"
    table.write_text("image,label\na.png,liver\n")
    with pytest.raises(UserError, match=r"boxes.csv cannot be read as JSON: .*; a CSV file is read by medcap"):
        downloads.convert(CocoBoxes(file=str(table)))


def test_what_cannot_be_used_is_counted(downloads):
    box = [0, 0, 10, 10]
    file = write(
        downloads,
        images=[
            {"id": 7, "file_name": "ct/a.png"},
            {"id": 8, "file_name": "ct/b.png"},
            {"id": 9, "file_name": "../c.png"},
            {"id": 10},
        ],
        annotations=[
            {"image_id": 7, "category_id": 1, "bbox": box},
            {"image_id": 7, "category_id": 5, "bbox": box},
            {"image_id": 70, "category_id": 1, "bbox": box},
            {"image_id": 7, "category_id": 2, "bbox": box, "iscrowd": 1},
            {"image_id": 8, "category_id": 1, "bbox": box},
            "nothing",
        ],
    )
    (written,) = downloads.convert(CocoBoxes(file=file))
    assert [row["boxes"] for row in rows_of(written)] == [[[0.0, 0.0, 10.0, 10.0]]]
    assert left_out(written) == {
        "an annotation without a known category": 1,
        "an annotation of an image that is not in the file": 1,
        "an annotation of a crowd": 1,
        "an annotation is not an object": 1,
        MISSING: 1,
        "an image without a usable 'file_name'": 2,
    }


def test_another_file_is_refused(downloads):
    with pytest.raises(UserError, match="is not in COCO's format: it has no list 'annotations'"):
        downloads.convert(CocoBoxes(file=write(downloads, annotations={})))
    with pytest.raises(UserError, match="cannot be read as JSON"):
        downloads.convert(CocoBoxes(file=str(downloads.text("mine/x.json", "{"))))
    with pytest.raises(UserError, match="--file nowhere does not exist"):
        downloads.convert(CocoBoxes(file="nowhere"))
