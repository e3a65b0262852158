"""A stand-in for each set of boxes, in its official layout: one image and one object."""

from __future__ import annotations

from helpers.downloads import Downloads

GRIT = "ct_00--AbdomenCT1K--Case_00220--x_0359"
_MSCXR = {"dicom_id": "a", "category_name": "Edema", "label_text": "an edema", "path": "files/p10/p10000032/a.jpg"}


def write_box_sets(downloads: Downloads) -> None:
    """Write all of them; SLAKE's image and questions are already there."""
    downloads.images("Med-GRIT-270k/images", f"{GRIT}.png")
    turns = [["Picture 1: <img>x</img>\nWhere is the <ref>liver</ref>?", "<box>(1,2),(3,4)</box>"]]
    downloads.array("Med-GRIT-270k/0301_train1_chatlm.json", [{"id": GRIT, "conversations": turns}])
    downloads.array("Slake1.0/imgs/xmlab0/detection.json", [{"Liver": [1, 1, 4, 4]}])
    sides = {"x": "1", "y": "1", "w": "4", "h": "4", "image_width": "8", "image_height": "8", "split": "train"}
    downloads.images("MS-CXR", _MSCXR["path"])
    downloads.table("MS-CXR/MS_CXR_Local_Alignment_v1.1.0.csv", [_MSCXR | sides])
    downloads.images("PadChest-GR/Padchest_GR_files", "1.png")
    finding = {"sentence_en": "An edema.", "boxes": [[0.1, 0.1, 0.5, 0.5]], "labels": ["edema"]}
    downloads.array("PadChest-GR/grounded_reports_20240819.json", [{"ImageID": "1.png", "findings": [finding]}])
    downloads.table("PadChest-GR/master_table.csv", [{"ImageID": "1.png", "PatientID": "P1", "split": "train"}])
    downloads.images("vindr-cxr/1.0.0/train", "a.png")
    edges = {"x_min": "1", "y_min": "1", "x_max": "5", "y_max": "5"}
    row = {"image_id": "a", "rad_id": "R1", "class_name": "ILD"}
    downloads.table("vindr-cxr/1.0.0/annotations/annotations_train.csv", [row | edges])
    downloads.images("boxes", "a.png")
    annotation = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}
    image = {"id": 1, "file_name": "a.png"}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "liver"}]}
    downloads.array("boxes/instances.json", content)
    downloads.table(
        "boxes/boxes.csv", [{"image": "a.png", "label": "liver", "x1": "1", "y1": "1", "x2": "5", "y2": "5"}]
    )
