import json

import pytest

from medcap.data.boxes.box import Box
from medcap.data.outputs import Outputs
from medcap.errors import UserError
from medcap.scoring.answers import read_answers
from medcap.scoring.protocols.registry import make_protocol
from medcap.scoring.question import Answer, Question

WHOLE = Box((0.0, 0.0, 0.2, 0.2))
HALF = Box((0.0, 0.0, 0.1, 0.2))  # IoU 0.5 with WHOLE
FAR = Box((0.8, 0.8, 1.0, 1.0))
QWEN = "<ref>ring</ref><box>(0,0),(200,200)</box>"


def row(name, reference=None, prediction="", wanted=None, given=None, size=(100, 50), image="a.png", **meta):
    question = Question(
        name, (), (reference or "",), boxes=wanted, image_size=size, image_names=(image,), meta=meta, words="Where?"
    )
    return Answer(question, prediction, Outputs(None if given is None else tuple(given)))


def score(*rows, protocol="boxes"):
    return make_protocol(protocol).score(rows)


def test_one_box_each():
    result = score(
        row("exact", wanted=(WHOLE,), given=[WHOLE]),
        row("half", wanted=(WHOLE,), given=[HALF]),
        row("far", wanted=(WHOLE,), given=[FAR]),
        row("silent", wanted=(WHOLE,), prediction="in the left lung"),
    )
    assert result.scores["mean_iou"] == 1.5 / 4
    # IoU >= 0.5 counts for Acc@0.5; in silence the generalised IoU is its lowest value.
    assert [result.scores[name] for name in ("acc_30", "acc_50", "acc_75")] == [0.5, 0.5, 0.25]
    assert result.scores["mean_giou"] == pytest.approx((1.0 + 0.5 + (-1 + 0.08) - 1.0) / 4)
    assert result.scores["set_f1_50"] == 0.5
    assert "false_positive_rate" not in result.scores
    assert [result.counts[name] for name in ("n", "failures", "present", "absent", "unparsed")] == [4, 0, 4, 0, 1]
    assert [row["correct"] for row in result.rows] == [True, True, False, False]
    assert [row["value"] for row in result.rows] == [1.0, 0.5, 0.0, 0.0]


def test_several_boxes_are_paired_one_to_one():
    two = score(row("both", wanted=(WHOLE, FAR), given=[FAR, WHOLE]), row("one", wanted=(WHOLE, FAR), given=[FAR]))
    assert [r["mean_iou"] for r in two.rows] == [1.0, 0.5]
    assert [r["set_f1_50"] for r in two.rows] == [1.0, pytest.approx(2 / 3)]
    # One box does not serve two targets, and a box too many costs as much as one that is missing.
    many = score(row("twice", wanted=(WHOLE, WHOLE), given=[WHOLE]), row("more", wanted=(WHOLE,), given=[WHOLE, FAR]))
    assert [r["mean_iou"] for r in many.rows] == [0.5, 0.5]
    assert [r["mean_giou"] for r in many.rows] == [0.0, 0.0]
    assert [r["acc_50"] for r in many.rows] == [0.5, 0.5]


def test_absent_objects():
    result = score(
        row("silent", "none", wanted=(), prediction="There is no ring."),
        row("given", "none", wanted=(), prediction=QWEN),
        row("broken", "none", wanted=(), prediction="<box>(1,2),(3)</box>"),
        row("lost", "none", wanted=(), prediction=""),
        row("empty list", "none", wanted=(), given=[]),
    )
    assert result.scores == {"set_f1_50": 0.4, "false_positive_rate": 0.4}
    assert (result.counts["absent"], result.counts["failures"], result.counts["unparsed"]) == (5, 1, 1)
    assert [r["correct"] for r in result.rows] == [True, False, False, False, True]


def test_an_absent_object_in_words_and_rows_that_ask_for_no_box():
    result = score(
        row("1", "There is no ring.", "no"),
        row("2", QWEN, QWEN),
        row("3", "a lung", "a lung"),
        row("4", "yes", "no", task="CLS"),
    )
    assert (result.counts["present"], result.counts["absent"], result.counts["words"]) == (1, 1, 2)
    assert result.scores["words_accuracy"] == 0.5
    assert [row["correct"] for row in result.rows[2:]] == [True, False]
    assert [row["value"] for row in result.rows[2:]] == [None, None]
    assert result.notices == [
        "rows that ask for words and not for a box, in words_accuracy alone: 2 of 4 (the first is 3)",
        "no interval, because their rows are of one image or patient: mean_giou, words_accuracy",
    ]
    with pytest.raises(UserError, match="boxes: no row asks for a box"):
        score(row("3", "a lung", "a lung"))


@pytest.mark.parametrize(
    ("text", "iou", "unread"),
    [
        ("Here: " + QWEN + " I think.", 1.0, 0),
        ("<think>{<1><1><2><2>}</think>{<0><0><20><10>}", 1.0, 0),
        ("{<0><0><20><10>} and {<1><2><3>}", 0.5, 1),
        ("{<0><0><20><10><7>}", 0.0, 1),
        ("<box>(200,200),(0,0)</box>", 0.0, 1),
        ("{<5><5><5><9>}", 0.0, 1),
        ("[nan, 1, 2, 3]", 0.0, 1),
        ("(0,0),(200,200)", 0.0, 1),
        (QWEN * 150, 1 / 150, 50),
        ("There is none.", 0.0, 0),
        ("As [1] and [2, 3] show.", 0.0, 0),
    ],
)
def test_boxes_in_words(text, iou, unread):
    result = score(row("q", QWEN, text))
    assert result.scores["mean_iou"] == pytest.approx(iou)
    assert any(f": {unread} in 1 of 1 answers (q: " in notice for notice in result.notices) == (unread > 0)


def test_without_the_images_size_one_unit_is_enough():
    pixels, other = "{<0><0><20><10>}", "{<0><0><10><10>}"
    assert score(row("1", pixels, other, size=None)).scores["mean_iou"] == 0.5
    assert score(row("2", QWEN, "<box>(0,0),(100,200)</box>", size=None)).scores["mean_iou"] == 0.5
    assert score(row("3", pixels, QWEN)).scores["mean_iou"] == 1.0  # of 100 x 50 pixels
    unknown = score(row("4", pixels, QWEN, size=None))
    assert unknown.scores["mean_iou"] == 0.0
    assert "the image's size is not known, and the reference is in another unit" in unknown.notices[0]


def test_a_reference_that_is_no_box_names_its_row():
    with pytest.raises(UserError, match=r"row q9: its reference holds '\{<1><2><3><4><5>\}', which is no box"):
        score(row("q9", "{<1><2><3><4><5>}", QWEN))


def test_intervals_draw_patients_or_images():
    rows = [row(str(i), wanted=(WHOLE,), given=[WHOLE if i < 4 else FAR], image=f"{i // 4}.png") for i in range(8)]
    result = score(*rows)
    assert result.counts["clusters"] == 2
    # Two images, one all right and one all wrong: each draw is 0, 0.5 or 1.
    assert (result.intervals["mean_iou"]["low"], result.intervals["mean_iou"]["high"]) == (0.0, 1.0)
    own = [row(str(i), wanted=(WHOLE,), given=[WHOLE if i < 4 else FAR], patient=str(i)) for i in range(8)]
    assert score(*own).counts["clusters"] == 8
    assert score(*own).intervals["mean_iou"]["low"] == 0.125


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_a_file(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        {"reference_boxes": [[0, 0, 20, 10]], "boxes": [[0, 0, 20, 10]], "image_size": [100, 50], "patient": 7},
        {"reference_boxes": [[0, 0, 20, 10]], "boxes": [[0, 0, float("nan"), 9], [1, 2, 3, 4, 5], [0, 0, 20, 10]]},
        {"reference_boxes": [], "reference": "none", "prediction": "none"},
        {"reference_boxes": [{"box": [0, 0, 20, 10], "label": "ring"}], "prediction": "{<0><0><20><5>}"},
        {"reference_boxes": [], "boxes": []},
        {"reference_boxes": [[0, 0, 20, 10]], "prediction": None},
    )
    answers = read_answers(path)
    assert answers[0].question.boxes == (WHOLE,)
    assert (answers[0].question.cluster, answers[0].question.image_size) == ("patient 7", (100, 50))
    result = make_protocol("boxes").score(answers)
    assert [r.get("mean_iou") for r in result.rows] == [1.0, pytest.approx(1 / 3), None, 0.5, None, 0.0]
    assert (result.counts["failures"], result.counts["unparsed"], result.scores["false_positive_rate"]) == (1, 1, 0.0)
    assert result.notices == ["boxes that cannot be read, each of them a miss: 2 in 1 of 6 answers (1: [0, 0, NaN, 9])"]


@pytest.mark.parametrize(
    "given",
    [
        {"boxes": [[0, 0, 200, 50]]},
        {"boxes": [0, 0, 200, 50]},
        {"boxes": [["0", "0", "200", "50.0"]]},
        {"prediction": "{<0><0><200><50>}"},
        {"boxes": [[0, 0, 200, 50]], "image_size": [100.0, 50.0]},
    ],
)
def test_a_box_that_reaches_beyond_the_image_is_cut_in_words_and_in_fields(tmp_path, given):
    row = {"reference_boxes": [[0, 0, 50, 50]], "image_size": [100, 50], **given}
    result = make_protocol("boxes").score(read_answers(write(tmp_path / "a.jsonl", row)))
    assert (result.scores["mean_iou"], result.counts["unparsed"]) == (0.5, 0)


@pytest.mark.parametrize("given", [{"boxes": [[100, 0, 200, 50]]}, {"prediction": "{<100><0><200><50>}"}])
def test_a_box_outside_the_image_is_none_that_can_be_read(tmp_path, given):
    row = {"reference_boxes": [[0, 0, 50, 50]], "image_size": [100, 50], **given}
    result = make_protocol("boxes").score(read_answers(write(tmp_path / "a.jsonl", row)))
    assert (result.scores["mean_iou"], result.counts["unparsed"]) == (0.0, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reference_boxes": [[0, 0, 0, 9]]}, "row 0: 'reference_boxes' holds .* which has no area"),
        ({"reference_boxes": [[0, 0, 1]]}, "row 0: 'reference_boxes' holds .* a box is four numbers"),
        (
            {"reference_boxes": [[100, 0, 200, 9]], "image_size": [100, 50]},
            r"row 0: 'reference_boxes' holds \[100.0, 0.0, 200.0, 9.0\], which is outside its image of 100 x 50",
        ),
        ({"reference_boxes": "none"}, "row 0: 'reference_boxes' must be a list"),
        ({"reference_boxes": [], "boxes": "none"}, "row 0: 'boxes' must be a list"),
        ({"reference_boxes": [], "image_size": [0, 5]}, r"row 0: 'image_size' must be \[width, height\]"),
    ],
)
def test_what_a_row_must_not_hold(tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        read_answers(write(tmp_path / "a.jsonl", {"prediction": "x", **wrong}))
