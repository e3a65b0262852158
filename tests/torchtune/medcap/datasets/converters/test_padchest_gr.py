import pytest

from helpers.downloads import Downloads, left_out, picture, rows_of, said
from medcap.datasets.converters.padchest_gr import PadChestGr
from medcap.errors import UserError


def finding(sentence, boxes=(), labels=(), abnormal=True):
    return {"sentence_en": sentence, "abnormal": abnormal, "boxes": list(boxes), "labels": list(labels)}


def write(tmp_path, *studies, split="train"):
    downloads = Downloads(tmp_path / "datasets")
    rows, table = [], []
    for number, findings in enumerate(studies):
        name = f"{number}.png"
        rows.append({"StudyID": f"s{number}", "ImageID": name, "findings": findings})
        table += [{"StudyID": f"s{number}", "ImageID": name, "PatientID": f"P{number}", "split": split}] * 2
        downloads.text(f"PadChest-GR/Padchest_GR_files/{name}", "").write_bytes(picture(size=(100, 50)))
    downloads.array("PadChest-GR/grounded_reports_20240819.json", rows)
    downloads.table("PadChest-GR/master_table.csv", table)
    return downloads


EFFUSION = finding("Left pleural effusion.", [[0.1, 0.2, 0.3, 0.4]], ["pleural effusion"])
NORMAL = finding("No other alterations.", abnormal=False)


def test_sentences_with_boxes_are_asked_for(tmp_path):
    downloads = write(tmp_path, [EFFUSION, NORMAL])
    (written,) = downloads.convert(PadChestGr())
    (row,) = rows_of(written)
    assert said(row) == ["<image>\n\nWhere is this finding: Left pleural effusion.", "It lies at <BOX>."]
    assert (row["boxes"], row["patient"], row["image_size"]) == ([[10.0, 10.0, 30.0, 20.0]], "P0", [100, 50])


def test_a_sentence_that_is_there_twice_keeps_the_boxes_of_both(tmp_path):
    first, box = finding("Nodule.", [[0.6, 0.1, 0.7, 0.2], [0.7, 0.3, 0.8, 0.4]]), [0.2, 0.2, 0.3, 0.4]
    downloads = write(tmp_path, [first, finding("Nodule.", [box, first["boxes"][0]]), {"sentence_en": "a", "boxes": 5}])
    (written,) = downloads.convert(PadChestGr())
    (row,) = rows_of(written)
    assert row["boxes"] == [[60.0, 5.0, 70.0, 10.0], [70.0, 15.0, 80.0, 20.0], [20.0, 10.0, 30.0, 20.0]]
    assert left_out(written) == {"'boxes' of a finding is not a list": 1}


def test_absent_findings_are_those_whose_labels_the_study_does_not_have(tmp_path):
    other = finding("Small effusion", [[0, 0, 1, 1]], ["Pleural Effusion"])
    nodule = finding("A nodule", [[0, 0, 1, 1]], ["nodule"])
    without_box = finding("Nodules", labels=["nodule"])
    downloads = write(tmp_path, [EFFUSION], [other, nodule], [without_box])
    (written,) = downloads.convert(PadChestGr(absent=5))
    absent = [(row["image"], row["phrase"]) for row in rows_of(written) if row["boxes"] == []]
    assert absent[0] == ("0.png", "A nodule")
    assert sorted(absent[1:]) == [("2.png", "Left pleural effusion."), ("2.png", "Small effusion")]


def test_a_study_of_another_part_is_not_read_and_a_damaged_one_is_counted(tmp_path):
    downloads = write(tmp_path, [EFFUSION], "nothing", [finding("a", [[0.5, 0.5, 0.5, 0.9], [0, 0, 1]])], split="test")
    with pytest.raises(UserError, match="the source holds nothing to convert"):
        downloads.convert(PadChestGr())
    (written,) = downloads.convert(PadChestGr(split="test"))
    assert written.rows == 1
    assert left_out(written) == {"'findings' is not a list of objects": 1, "a box has no area": 1}
    (downloads.folder / "PadChest-GR/master_table.csv").unlink()
    with pytest.raises(UserError, match=r"master_table.csv .*does not exist"):
        downloads.convert(PadChestGr())
