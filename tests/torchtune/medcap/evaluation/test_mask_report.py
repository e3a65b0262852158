import pytest

from helpers.mask_rows import mask_of, mask_row
from medcap.data.regions.region import Region, RunLength
from medcap.evaluation.mask_report import mask_charts, read_masks
from medcap.evaluation.prompting import plan_protocols
from medcap.evaluation.scored import Scored
from medcap.scoring.answer_masks import masks_as_json
from medcap.scoring.protocols.base import ProtocolScores

FULL, HALF, OTHER = mask_of("##", ".."), mask_of("#.", ".."), mask_of("..", ".#")
EMPTY = mask_of("..", "..")


def scored(answers):
    entries = []
    for answer in answers:
        given = answer.outputs.masks
        labels = [region.label if region else "" for region in given or ()]
        masks = {} if given is None else {"masks": masks_as_json(given, labels)}
        entries.append({"question_id": answer.question.id, "prediction": answer.prediction, **masks})
    return Scored(plan_protocols(["masks"])[0], entries, ProtocolScores({}, {}, [], {}))


def read(*answers):
    """The masks of these answers."""
    return read_masks([answer.question for answer in answers], {"own image": scored(answers)}).get("own image")


ROWS = [
    mask_row("fits", [("liver", FULL)], [HALF], words="<SEG>", modality="CT"),
    mask_row("misses", [("liver", FULL)], [OTHER], words="<SEG>", modality="MR"),
    mask_row("silent", [("spleen", FULL)], [], words="the spleen", modality="CT"),
    mask_row("says absent", [("spleen", FULL)], [None], words="none", modality="CT"),
    mask_row("rightly none", [("cyst", None)], [None], words="none", modality="CT"),
    mask_row("wrongly there", [("cyst", None)], [HALF], words="<SEG>", modality="CT"),
    mask_row("too many", [("liver", FULL)], [FULL, HALF, EMPTY], words="<SEG>", modality="MR"),
    mask_row("no answer", [("cyst", None), ("liver", FULL)], None, modality="CT"),
    mask_row("small", [("liver", FULL)], [mask_of("#")], words="<SEG>", modality="CT"),
]


def test_each_object_is_told_and_scored_as_the_protocol_scores_it():
    results = read(*ROWS)
    assert [result.drawn.words for result in results] == [
        "liver: Dice 0.67, IoU 0.50",
        "liver: Dice 0.00, IoU 0.00",
        "spleen: no mask in the answer",
        "spleen: absent, says the answer",
        "cyst: absent, and the answer has none",
        "cyst: absent, but the answer has 1 pixel",
        "1 liver: Dice 1.00, IoU 1.00; 2: belongs to no object of the reference, 1 pixel",
        "1 cyst: absent, and no answer; 2 liver: no mask in the answer",
        "liver: Dice 0.67, IoU 0.50",
    ]
    plan = scored(ROWS).plan
    rows = plan.protocol.score(plan.answers([row.question for row in ROWS], scored(ROWS).entries)).rows
    assert [result.dice for result in results] == pytest.approx([row["value"] for row in rows])
    assert [result.iou for result in results] == pytest.approx([row["mean_iou"] for row in rows])


def test_a_mask_that_cannot_be_read_is_told_and_not_drawn():
    answer = mask_row("bad", [FULL], [], words="<SEG>")
    part = scored([answer])
    part.entries[0]["masks"] = [{"mask": {"size": [2, 2], "counts": "9"}}]
    (result,) = read_masks([answer.question], {"own image": part})["own image"]
    (one,) = result.drawn.objects
    assert one.words.startswith("a mask that cannot be read: ") and one.given is None and one.expected is not None
    assert result.dice == 0.0


def test_rows_without_masks_have_none():
    words = mask_row("words", None, None, words="yes")
    damaged = mask_row("damaged", [FULL], [FULL], words="<SEG>")
    object.__setattr__(damaged.question, "masks", (Region(RunLength((2, 2), "9")),))
    assert read(words) is None and mask_charts({}) == []
    assert read(words, damaged, ROWS[0])[:2] == [None, None]


def test_charts_count_the_objects_that_are_there():
    own = read(*ROWS)
    charts = mask_charts({"own image": own, "images shuffled": own[1:3]})
    assert [chart.title for chart in charts] == [
        "Objects by Dice threshold",
        "The same by class",
        "The same by modality",
    ]
    assert [list(chart.series) for chart in charts] == [
        ["own image (n = 7)", "images shuffled (n = 2)"],
        ["all objects (n = 7)", "liver (n = 5)", "spleen (n = 2)"],
        ["all objects (n = 7)", "CT (n = 5)", "MR (n = 2)"],
    ]
    curve = dict(charts[1].series["liver (n = 5)"])
    assert [curve[limit] for limit in (0.0, 0.65, 0.7, 1.0)] == pytest.approx([0.6, 0.6, 0.2, 0.2])
    assert len(mask_charts({"own image": own[:1]})) == 1


def test_a_control_may_leave_rows_out():
    results = read_masks(
        [row.question for row in ROWS], {"own image": scored(ROWS), "question exchanged": scored(ROWS[1:2])}
    )
    assert [result.dice for result in results["question exchanged"]] == [0.0]
