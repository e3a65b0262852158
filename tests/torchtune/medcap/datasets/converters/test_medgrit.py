from helpers.downloads import Downloads, left_out, picture, rows_of, said
from medcap.datasets.conversion.writing import MISSING
from medcap.datasets.converters.medgrit import MedGrit

CT = "ct_00--AbdomenCT1K--Case_00220--x_0359"


def test_conversations_keep_their_boxes_and_lose_the_tag_of_the_image(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    downloads.text(f"SAMed2Dv1/images/{CT}.png", "").write_bytes(picture())
    where = ["Picture 1: <img>x.png</img>\nWhere is the <ref>liver</ref>?", "<ref>liver</ref><box>(1,2),(3,4)</box>"]
    downloads.array(
        "Med-GRIT-270k/0301_train1_chatlm_img_coord2.json",
        [
            {"id": CT, "conversations": [where]},
            {"id": CT, "conversations": [where, ["What is it?", "An organ."]]},
            {"id": "other", "conversations": [where]},
            {"id": CT, "conversations": [["only a question"]]},
            {"id": CT, "conversations": [[where[0], "<ref>liver</ref><box>(900,1),(1100,9)</box>"]]},
            {"id": CT, "conversations": [[where[0], "<ref>liver</ref><box>(1001,1),(1100,9)</box>"]]},
            {"id": CT, "conversations": [[where[0], "<ref>liver</ref><box>(7,1),(7,9)</box>"]]},
        ],
    )
    (written,) = downloads.convert(MedGrit())
    first, second, cut = rows_of(written)
    assert said(cut)[1] == "<ref>liver</ref><box>(900,1),(999,9)</box>"
    assert said(first) == ["<image>\n\nWhere is the <ref>liver</ref>?", "<ref>liver</ref><box>(1,2),(3,4)</box>"]
    assert (first["image"], first["patient"], first["task"]) == (f"{CT}.png", "AbdomenCT1K--Case_00220", "VG")
    assert (first["phrase"], "phrase" in second) == ("liver", False)
    assert said(second)[2:] == ["What is it?", "An organ."]
    assert left_out(written) == {
        MISSING: 1,
        "'conversations' is not a list of questions with their answers": 1,
        "a box lies outside its image": 1,
        "a box has no area": 1,
    }
