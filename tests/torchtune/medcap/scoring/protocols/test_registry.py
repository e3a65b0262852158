from dataclasses import replace

import pytest

from helpers.answers import make_answer
from medcap.data.outputs import Outputs
from medcap.data.regions.region import Region, RunLength
from medcap.errors import UserError
from medcap.scoring.protocols.registry import PROTOCOLS, make_protocol


def test_the_protocols_and_their_order():
    assert list(PROTOCOLS) == [
        "llava_med",
        "llava_med_batch",
        "llava_med_strict",
        "medplib",
        "omnimedvqa_qa",
        "medcap_letter",
        "medcap_option",
        "exact",
        "coco",
        "colongpt",
        "colongpt_strict",
        "bird_vg",
        "bird_vg_strict",
        "bird_ro",
        "bird_ro_strict",
        "bird_gc",
        "bird_gc_strict",
        "bird_mii",
        "bird_mii_strict",
        "boxes",
        "medplib_seg",
        "masks",
        "medevalkit",
        "medevalkit_corrected",
        "vlmevalkit",
        "lmms_eval_slake",
        "coco_strict",
        "report_options",
        "imageclef_rouge",
        "imageclef_bertscore",
    ]


def test_an_unknown_name_gets_a_close_one_and_the_list():
    with pytest.raises(
        UserError, match=r"no protocol 'llava-med', did you mean 'llava_med'\? there are: llava_med, .*masks"
    ):
        make_protocol("llava-med")
    with pytest.raises(UserError, match="no protocol 'zzz'; there are: llava_med"):
        make_protocol("zzz")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROTOCOLS if not PROTOCOLS[name].takes_minutes])
def test_every_protocol_names_what_it_returns(name):
    protocol = make_protocol(name, ["yes"])
    # Two images of each: one value has no interval.
    asked = [(kind, f"ct_{image}.png") for image in (1, 2) for kind in ("OPEN", "CLOSED")]
    text = "<box>(1,2),(3,4)</box>" if name.startswith(("boxes", "bird_vg")) else "yes"
    groups = {"modality": "CT", "task": "CLS", "dataset": "slake"}
    rows = [
        make_answer(f"{kind} {image}", "", (text,), text, (text, "no"), kind, groups, image) for kind, image in asked
    ]
    if protocol.scores_masks:
        mask = Region(RunLength((3, 4), "714"))
        rows = [
            replace(row, question=replace(row.question, masks=(mask,)), outputs=Outputs(None, (mask,))) for row in rows
        ]
    result = protocol.score(rows)
    assert protocol.name == name
    assert not protocol.description.endswith(".")
    assert protocol.headline in result.scores
    assert result.scores.keys() == result.intervals.keys()
    assert [row["question_id"] for row in result.rows] == [f"{kind} {image}" for kind, image in asked]
    assert all({"correct", "value"} <= row.keys() for row in result.rows)
    values = [row["value"] for row in result.rows]
    eight = protocol.name in ("bird_vg", "bird_ro")  # seven modalities without a row count 0
    assert result.scores[protocol.headline] == pytest.approx(sum(values) / len(values) / (8 if eight else 1))


# The published rules read what a model said as it stands; medplib_seg and masks read no words.
AS_SAID = ("llava_med", "llava_med_batch", "medplib", "omnimedvqa_qa", "coco", "colongpt", "bird_vg", "bird_ro")
PUBLISHED = (*AS_SAID, "bird_gc", "bird_mii", "medevalkit", "vlmevalkit", "lmms_eval_slake", "imageclef_rouge")
OURS = [
    name
    for name, protocol in PROTOCOLS.items()
    if name not in PUBLISHED and not protocol.takes_minutes and not protocol.scores_masks
]


@pytest.mark.parametrize("name", OURS)
def test_our_protocols_take_reasoning_off_and_count_it(name):
    right, wrong = (
        ("<box>(1,2),(30,40)</box>", "<box>(90,90),(99,99)</box>")
        if "vg" in name or "boxes" in name
        else (("yes", "no"))
    )
    groups = {"modality": "CT", "task": "CLS", "dataset": "vqarad"}
    given = [f"<think>It may be {wrong}.</think>{right}", right]
    options = () if right.startswith("<") else ("yes", "no")
    rows = [
        make_answer(str(number), "", (right,), text, options, "CLOSED", groups, "ct_1.png")
        for number, text in enumerate(given)
    ]
    result = make_protocol(name).score(rows)
    assert result.counts["reasoning"] == 1
    assert "replies with reasoning or tags, which are taken off: 1 of 2 (the first is 0)" in result.notices
    if name not in ("medcap_letter", "medcap_option"):  # an option's letter is A or B
        assert [row["value"] for row in result.rows] == [1.0, 1.0]


@pytest.mark.parametrize("name", ["llava_med", "medplib", "medevalkit", "lmms_eval_slake", "omnimedvqa_qa"])
def test_published_protocols_have_it_as_it_is(name):
    rows = [make_answer("0", "", ("yes",), "<think>no</think>yes", ("yes", "no"), "CLOSED", {"dataset": "vqarad"})]
    result = make_protocol(name).score(rows)
    line = "replies with reasoning or tags, which the published rule reads as a whole: 1 of 1 (the first is 0)"
    assert line in result.notices and result.counts["reasoning"] == 1
