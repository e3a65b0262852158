import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.metrics import java_scorers
from medcap.scoring.protocols.coco import Coco, CocoStrict

pytestmark = pytest.mark.processes

REFERENCES = [
    "Chest X-ray shows clear lungs.",
    "MRI of the brain with a mass in the left frontal lobe.",
    "Normal abdominal CT.",
]
CAPTIONS = [
    "The chest X-ray shows clear lungs.",
    "CT of the brain with a mass in the right frontal lobe.",
    "Normal abdominal CT.",
]


def answers(captions, references=REFERENCES):
    return [
        make_answer(str(index), "", (reference,), caption)
        for index, (caption, reference) in enumerate(zip(captions, references, strict=True))
    ]


def test_golden_scores(monkeypatch):
    def meteor(hypotheses, references):
        # What Java says of these is tested in metrics/test_caption.py; to start it takes ten seconds.
        assert hypotheses == [
            "the chest x-ray shows clear lungs",
            "ct of the brain with a mass in the right frontal lobe",
            "normal abdominal ct.",
        ]
        assert references == [
            ["chest x-ray shows clear lungs"],
            ["mri of the brain with a mass in the left frontal lobe"],
            ["normal abdominal ct."],
        ]
        return 0.519934, [0.0, 0.0, 1.0]

    monkeypatch.setattr(java_scorers, "meteor", meteor)
    result = Coco().score(answers(CAPTIONS))
    expected = {
        "Bleu_1": 0.857143,
        "Bleu_2": 0.816497,
        "Bleu_3": 0.763143,
        "Bleu_4": 0.713565,
        "METEOR": 0.519934,
        "ROUGE_L": 0.919192,
        "CIDEr": 7.651380,
    }
    assert {name: result.scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert {"Bleu_1", "Bleu_4", "ROUGE_L", "CIDEr"} <= result.intervals.keys()
    assert "METEOR" not in result.intervals
    row = result.rows[2]
    assert (row["question_id"], row["correct"], row["value"]) == ("2", None, row["CIDEr"])
    assert row["METEOR"] == 1.0


@pytest.fixture
def without_meteor(monkeypatch):
    monkeypatch.setattr(java_scorers, "meteor", lambda hypotheses, references: (0.0, [0.0] * len(hypotheses)))


def test_line_boundaries_within_a_caption_do_not_shift_the_following_ones(without_meteor):
    boundaries = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
    assert len("x".join(boundaries).splitlines()) == len(boundaries)
    broken = [f"The{boundaries}chest\r\nX-ray shows{boundaries}clear lungs.{boundaries}", *CAPTIONS[1:]]
    assert Coco().score(answers(broken)).rows == Coco().score(answers(CAPTIONS)).rows


def test_failures_are_counted_and_score_0(without_meteor):
    result = Coco().score(answers([CAPTIONS[0], "", CAPTIONS[2]]))
    assert result.counts == {"n": 3, "failures": 1}
    assert result.rows[1]["CIDEr"] == result.rows[1]["ROUGE_L"] == result.rows[1]["Bleu_1"] == 0.0


def test_the_strict_twin_scores_the_final_reply(without_meteor):
    thinking = [f"<think>Let me see the lungs.</think>{caption}" for caption in CAPTIONS]
    result = CocoStrict().score(answers(thinking))
    assert result.rows == Coco().score(answers(CAPTIONS)).rows
    assert result.counts["reasoning"] == 3
    assert "replies with reasoning or tags, which are taken off: 3 of 3 (the first is 0)" in result.notices
    assert Coco().score(answers(thinking)).scores["CIDEr"] < result.scores["CIDEr"]


def test_no_answers_are_refused():
    with pytest.raises(UserError, match="coco: there are no answers"):
        Coco().score([])


def test_rows_that_meteor_fails_on_are_named(monkeypatch):
    def meteor(hypotheses, references):
        if hypotheses[1]:
            raise java_scorers.RowFailure(1, "java.lang.OutOfMemoryError: Java heap space")
        return 0.5, [1.0, 0.0, 1.0]

    monkeypatch.setattr(java_scorers, "meteor", meteor)
    result = Coco().score(answers(CAPTIONS))
    assert (
        "METEOR counts row 1 (12 words) as an empty caption, because its Java process ended early:"
        " java.lang.OutOfMemoryError: Java heap space"
    ) in result.notices
    assert result.scores["CIDEr"] == pytest.approx(7.651380, abs=1e-6)
    assert [row["METEOR"] for row in result.rows] == [1.0, 0.0, 1.0]


def test_a_meteor_that_fails_on_everything_names_the_row(monkeypatch):
    def meteor(hypotheses, references):
        raise java_scorers.RowFailure(2, "no room")

    monkeypatch.setattr(java_scorers, "meteor", meteor)
    with pytest.raises(
        UserError, match=r"coco: METEOR's Java process ended early, the last time on row 2 \(3 words\): no"
    ):
        Coco().score(answers(CAPTIONS))


def test_intervals_without_a_width_are_reported(without_meteor):
    result = Coco().score(answers(REFERENCES))
    assert result.notices[-1].startswith("intervals without a width, because all rows score alike: Bleu_1")
    # The mean of shares has Wilson's interval, CIDEr has no bounds.
    assert result.intervals["ROUGE_L"]["low"] == pytest.approx(0.4385, abs=5e-5)
    assert Coco().score(answers(["", "", ""])).intervals["CIDEr"]["high"] == 0.0
