import pytest

from helpers.answers import make_answer
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
    ]


def test_an_unknown_name_gets_a_close_one_and_the_list():
    with pytest.raises(
        UserError, match=r"no protocol 'llava-med', did you mean 'llava_med'\? there are: llava_med, .*coco"
    ):
        make_protocol("llava-med")
    with pytest.raises(UserError, match="no protocol 'zzz'; there are: llava_med"):
        make_protocol("zzz")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "coco"])
def test_every_protocol_names_what_it_returns(name):
    protocol = make_protocol(name, ["yes"])
    kinds = ("OPEN", "CLOSED")
    rows = [make_answer(kind, "", ("yes",), "yes", ("yes", "no"), kind, {"modality": "CT"}) for kind in kinds]
    result = protocol.score(rows)
    assert protocol.name == name
    assert not protocol.description.endswith(".")
    assert protocol.headline in result.scores
    assert result.scores.keys() == result.intervals.keys()
    assert [row["question_id"] for row in result.rows] == ["OPEN", "CLOSED"]
    assert all({"correct", "value"} <= row.keys() for row in result.rows)
    values = [row["value"] for row in result.rows]
    assert result.scores[protocol.headline] == sum(values) / len(values)
