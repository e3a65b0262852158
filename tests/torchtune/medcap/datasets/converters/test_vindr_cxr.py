import numpy as np

from helpers.dicom_files import write_dicom
from helpers.downloads import Downloads, picture, rows_of, said
from medcap.datasets.converters.vindr_cxr import VinDrCxr

ANNOTATIONS = "vindr-cxr/1.0.0/annotations/annotations_train.csv"


def line(image, label, box=("", "", "", ""), reader="R1"):
    edges = dict(zip(("x_min", "y_min", "x_max", "y_max"), map(str, box), strict=True))
    return {"image_id": image, "rad_id": reader, "class_name": label, **edges}


def test_the_boxes_of_several_readers_around_one_lesion_become_their_mean(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    downloads.table(
        ANNOTATIONS,
        [
            line("a", "Nodule/Mass", (10, 10, 20, 20), "R1"),
            line("a", "Nodule/Mass", (10, 10, 22, 20), "R2"),
            line("a", "Nodule/Mass", (30, 30, 36, 36), "R2"),
            line("a", "Nodule/Mass", (30, 30, 37, 37), "R2"),
            line("a", "Other lesion", (1, 1, 2, 2), "R3"),
            line("b", "No finding"),
        ],
    )
    folder = downloads.folder / "vindr-cxr/1.0.0/train"
    folder.mkdir()
    write_dicom(folder / "a.dicom", np.arange(64 * 40, dtype=np.uint16).reshape(40, 64))
    (folder / "b.png").write_bytes(picture())
    (written,) = downloads.convert(VinDrCxr(absent=1))
    first, second = rows_of(written)
    assert said(first) == ["<image>\n\nWhere is the nodule/mass?", "The nodule/mass lies at <BOX>, <BOX> and <BOX>."]
    assert first["boxes"] == [[10.0, 10.0, 21.0, 20.0], [30.0, 30.0, 36.0, 36.0], [30.0, 30.0, 37.0, 37.0]]
    assert (first["image"], first["image_size"]) == ("a.dicom", [64, 40])
    assert (said(second)[1], second["image"], second["phrase"], second["boxes"]) == (
        "There is no nodule/mass.",
        "b.png",
        "nodule/mass",
        [],
    )


def test_the_test_set_has_no_readers(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    lines = [line("a", "ILD", (1, 1, 4, 4)), line("a", "ILD", (1, 1, 4, 5))]
    downloads.table(
        "vindr-cxr/annotations_test.csv", [{k: v for k, v in row.items() if k != "rad_id"} for row in lines]
    )
    downloads.images("vindr-cxr/test", "a.png")
    (written,) = downloads.convert(VinDrCxr(split="test"))
    (row,) = rows_of(written)
    assert (written.path.name, row["phrase"]) == ("vindr-cxr_test.jsonl", "ILD")
    assert row["boxes"] == [[1.0, 1.0, 4.0, 4.0], [1.0, 1.0, 4.0, 5.0]]
