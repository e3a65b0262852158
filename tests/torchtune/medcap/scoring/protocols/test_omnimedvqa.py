import pytest

from helpers.answers import make_answer
from medcap.scoring.protocols.omnimedvqa import OmniMedVqaQa, most_similar

OPTIONS = ("Heart", "Lung", "Liver", "Kidney")


def answer(prediction, reference="Lung", options=OPTIONS, name="q", modality="CT"):
    return make_answer(
        name, "", (reference,), prediction, tuple(options), groups={"modality": modality} if modality else {}
    )


@pytest.mark.parametrize(
    ("prediction", "options", "expected"),
    [
        ("Lung", OPTIONS, 1),
        ("the lung is affected", OPTIONS, 1),
        ("", OPTIONS, None),
        ("§", OPTIONS, None),
        ("ab", ("ax", "xb"), 0),
        ("LUNG", ("lung", "LUng"), 1),
        # The ratio depends on the order of its arguments: here 2/7 and 1/2, the other way 2/7 and 1/4.
        ("bdac", ("cab", "dcab"), 1),
        # Past 200 characters difflib leaves out frequent ones: without that the second would be the nearer.
        ("ab" * 101 + "xyz", ("xyz", "baba"), 0),
    ],
)
def test_most_similar_option(prediction, options, expected):
    assert most_similar(prediction, options) == expected


def test_omnimedvqa_counts_over_rows_and_over_modalities():
    rows = [
        answer("Lung", modality="CT"),
        answer("it is the Lung", modality="CT"),
        answer("Heart", modality="CT"),
        answer("", modality="MR"),
    ]
    result = OmniMedVqaQa().score(rows)
    assert result.scores == pytest.approx({"accuracy": 0.5, "accuracy_by_modality": 1 / 3})
    assert result.counts == {"n": 4, "failures": 1}
    assert result.rows[2] == {"question_id": "q", "accuracy": 0.0, "choice": "Heart", "correct": False, "value": 0.0}
    assert result.intervals["accuracy"] == {"low": 0.0, "high": 1.0, "level": 0.95, "draws": 10_000}
    assert result.intervals["accuracy_by_modality"].keys() == {"low", "high", "level", "draws"}
    assert result.notices == []
