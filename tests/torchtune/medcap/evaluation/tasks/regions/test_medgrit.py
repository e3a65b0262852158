import json

import pytest

from helpers.downloads import picture
from medcap.data.boxes.box import Box
from medcap.errors import UserError
from medcap.evaluation.tasks.regions.boxes import BoxOptions
from medcap.evaluation.tasks.regions.medgrit import MedGritTask
from medcap.scoring.protocols.registry import make_protocol
from medcap.scoring.question import Answer

CT = "ct_00--AbdomenCT1K--Case_00220--x_0359"
MR = "mr_t1--AMOS2022--amos_0507--z_0031"
WHERE = "Picture 1: <img>anything.png</img>\nWhere is the <ref>liver</ref> located?"
LIVER = "<ref>liver</ref><box>(100,200),(500,600)</box>"


def write(tmp_path, **kinds):
    (tmp_path / "Med-GRIT-270k/images").mkdir(parents=True)
    for name in (CT, MR):
        (tmp_path / f"Med-GRIT-270k/images/{name}.png").write_bytes(picture(size=(100, 50)))
    for kind, records in kinds.items():
        path = tmp_path / f"Med-GRIT-270k/0301_7.5w_test_chatlm_{kind}_img_coord_OneConv.json"
        path.write_text(json.dumps(records), encoding="utf-8")


def record(*turns, name=CT):
    return {"id": name, "conversations": [list(turn) for turn in turns]}


def test_each_kind_of_file_is_a_task(tmp_path):
    write(
        tmp_path,
        VG=[record((WHERE, LIVER))],
        RO=[record(("Picture 1: <img>x</img>\nWhat is in <box>(1,2),(3,4)</box>?", "liver"), name=MR)],
        GC=[record(("Describe <box>(1,2),(3,4)</box>.", "The liver in the upper right."))],
        MII=[record(("Describe the image.", "A slice of the abdomen."))],
    )
    benchmark = MedGritTask().load(tmp_path)
    first, second, *_ = benchmark.rows
    assert (first.id, first.text, first.references) == (f"vg/{CT}", "Where is the <ref>liver</ref> located?", (LIVER,))
    assert first.meta == {"task": "VG", "phrase": "liver", "modality": "ct", "patient": "AbdomenCT1K--Case_00220"}
    assert (first.boxes, first.image_size) == ((Box((0.1, 0.2, 0.5, 0.6), "liver"),), (100, 50))
    assert first.image.path.endswith(f"{CT}.png")
    assert (second.meta["task"], second.meta["modality"], second.boxes) == ("ROC", "mr", None)
    assert [row.meta["task"] for row in benchmark.rows] == ["VG", "ROC", "RC", "MIA"]
    assert [row.meta["task"] for row in MedGritTask().load(tmp_path, BoxOptions(subtasks="mia")).rows] == ["MIA"]


def test_later_turns_keep_those_before_them(tmp_path):
    write(tmp_path, VG=[record((WHERE, LIVER), ("And the <ref>spleen</ref>?", "<box>(0,0),(10,10)</box>"))])
    benchmark = MedGritTask().load(tmp_path / "Med-GRIT-270k")
    _, second = benchmark.rows
    assert (second.id, second.text, second.meta["phrase"]) == (f"vg/{CT}#turn1", "And the <ref>spleen</ref>?", "spleen")
    assert [message.role for message in second.messages] == ["user", "assistant", "user"]
    assert second.messages[1].text_content == LIVER
    assert second.image is not None
    assert benchmark.notices == ["1 question is a later turn, which BiRD does not ask"]


def test_the_image_may_be_the_one_in_the_tag_and_a_missing_one_stays_as_a_failure(tmp_path):
    write(
        tmp_path, VG=[record((WHERE.replace("anything", MR), LIVER), name="unknown"), record((WHERE, LIVER), name="no")]
    )
    found, missing = MedGritTask().load(tmp_path).rows
    assert found.image.path.endswith(f"{MR}.png")
    assert "no.png does not exist" in missing.problem
    with pytest.raises(UserError, match=r"holds no test file of MIA \(subtasks\)"):
        MedGritTask().load(tmp_path, BoxOptions(subtasks=["MIA"]))


def test_a_damaged_record_stops_the_benchmark(tmp_path):
    write(tmp_path, VG=[record((WHERE, LIVER)), {"id": CT, "conversations": [WHERE]}])
    with pytest.raises(UserError, match=r"OneConv.json, row 1: 'conversations' is not a list of questions"):
        MedGritTask().load(tmp_path)


@pytest.mark.parametrize(
    "answer", ["<box>(100,200),(50,600)</box>", "<box>(100,200),(500)</box>", LIVER + "<box>a</box>"]
)
def test_an_answer_that_is_no_box_is_a_failure_and_does_not_end_the_scoring(tmp_path, answer):
    write(tmp_path, VG=[record((WHERE, answer)), record((WHERE, LIVER), name=MR)])
    rows = MedGritTask().load(tmp_path).rows
    assert rows[0].problem.startswith("the file's answer holds '<box>") and rows[0].problem.endswith("which is no box")
    assert rows[1].problem is None
    answers = [Answer(rows[0], ""), Answer(rows[1], LIVER)]
    assert make_protocol("boxes").score(answers).scores["mean_iou"] == 0.5
    assert make_protocol("bird_vg_strict").score(answers).scores["recall"] == 0.5
    assert make_protocol("bird_vg").score(answers).scores["mr.recall"] == pytest.approx(1.0)
