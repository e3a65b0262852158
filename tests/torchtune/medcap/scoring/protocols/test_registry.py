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
    kinds = ("OPEN", "CLOSED")
    text = "<box>(1,2),(3,4)</box>" if name.startswith(("boxes", "bird_vg")) else "yes"
    groups = {"modality": "CT", "task": "CLS"}
    rows = [make_answer(kind, "", (text,), text, (text, "no"), kind, groups, "ct_1.png") for kind in kinds]
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
    assert [row["question_id"] for row in result.rows] == ["OPEN", "CLOSED"]
    assert all({"correct", "value"} <= row.keys() for row in result.rows)
    values = [row["value"] for row in result.rows]
    eight = protocol.name in ("bird_vg", "bird_ro")  # seven modalities without a row count 0
    assert result.scores[protocol.headline] == pytest.approx(sum(values) / len(values) / (8 if eight else 1))
