import pytest

from medcap.errors import UserError
from medcap.evaluation.metrics import java_scorers
from medcap.evaluation.protocols.coco import Coco
from medcap.evaluation.rows import Answer

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
        Answer(str(index), "", (reference,), caption)
        for index, (caption, reference) in enumerate(zip(captions, references, strict=True))
    ]


def test_golden_scores():
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


def test_no_answers_are_refused():
    with pytest.raises(UserError, match="coco: there are no answers"):
        Coco().score([])
