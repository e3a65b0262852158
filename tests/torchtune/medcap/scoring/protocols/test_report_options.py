import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.protocols.report_options import ReportOptions, label_sums, mean_of_labels, right_options

PLACES = ("left lower lobe", "lower lobe", "no selection", "aorta, thoracic")


def answer(prediction, reference, options=PLACES, level="level 3", phrase="lung_opacity_body_region", report="1"):
    groups = {"question_type": level, "phrase": phrase, "patient": report}
    return make_answer(f"{report}-{phrase}", "", (reference,), prediction, options, groups=groups)


@pytest.mark.parametrize(
    ("prediction", "reference", "choice"),
    [
        ("left lower lobe", "left lower lobe", "left lower lobe"),
        ("Left lower lobe and the thoracic aorta", "left lower lobe", "left lower lobe"),
        ("aorta, thoracic, left lower lobe.", "left lower lobe; aorta, thoracic", "left lower lobe; aorta, thoracic"),
        ("lower lobe", "lower lobe", "lower lobe"),
        ("<think>lower lobe?</think>no selection", "no selection", "no selection"),
    ],
)
def test_a_reply_is_right_when_it_names_exactly_the_right_options(prediction, reference, choice):
    (row,) = ReportOptions().score([answer(prediction, reference)]).rows
    assert (row["correct"], row["choice"], row["value"]) == (True, choice, 1.0)


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("left lower lobe", "left lower lobe; lower lobe"),
        ("left lower lobe, lower lobe", "left lower lobe"),
        ("not the left lower lobe", "left lower lobe"),
        ("", "left lower lobe"),
        ("left lower lobe", "left lower lobe; apex"),
    ],
)
def test_one_too_many_one_too_few_and_nothing_are_wrong(prediction, reference):
    (row,) = ReportOptions().score([answer(prediction, reference)]).rows
    assert row["correct"] is False


def test_a_verdict_is_one_option():
    yes_no = {"options": ("yes", "no"), "level": "level 1", "phrase": "lung_signs"}
    rows = (
        ReportOptions().score([answer("No, there is no opacity.", "no", **yes_no), answer("Yes", "no", **yes_no)]).rows
    )
    assert [row["correct"] for row in rows] == [True, False]


def test_means_are_over_labels_that_are_right_somewhere_and_of_each_level():
    signs = {"options": ("yes", "no"), "level": "level 1", "phrase": "lung_signs"}
    answers = [
        answer("yes", "yes", **signs, report="1"),
        answer("yes", "no", **signs, report="2"),
        answer("left lower lobe", "left lower lobe; lower lobe", report="1"),
        answer("", "lower lobe", report="2"),
    ]
    result = ReportOptions().score(answers)
    # level 1: "yes" has precision 1/2 and recall 1; "no" is never named: precision 1, recall and F 0.
    # level 3: the first place has 1, 1, 1; the second is never named: 1, 0, 0.
    assert result.scores == pytest.approx(
        {
            "accuracy": 0.25,
            "level_1.accuracy": 0.5,
            "level_3.accuracy": 0.0,
            "f1": (2 / 3 + 0 + 1 + 0) / 4,
            "precision": (0.5 + 1 + 1 + 1) / 4,
            "recall": 0.5,
            "level_1.f1": 1 / 3,
            "level_1.precision": 0.75,
            "level_1.recall": 0.5,
            "level_3.f1": 0.5,
            "level_3.precision": 1.0,
            "level_3.recall": 0.5,
        }
    )
    assert (result.counts, result.clustered) == ({"n": 4, "failures": 1}, True)
    assert result.intervals.keys() == result.scores.keys()
    assert result.intervals["level_3.recall"] == {"low": 0.0, "high": 0.5, "level": 0.95, "draws": 2_000}


def test_the_means_are_those_of_scikit_learn():
    right = [[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 0]]
    named = [[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]]
    pairs = [
        tuple(frozenset(("q", str(label)) for label, chosen in enumerate(row) if chosen) for row in pair)
        for pair in zip(right, named, strict=True)
    ]
    sums = label_sums(pairs, ["a", "b", "a", "b"]).sum(axis=0, keepdims=True)
    # classification_report(right, named, zero_division=1) of scikit-learn 1.9.1, labels 0 to 2; label 3 has no support.
    expected = {"f1": (0.5, 0.5, 0.8), "precision": (0.5, 0.5, 1.0), "recall": (0.5, 0.5, 2 / 3)}
    for name, values in expected.items():
        assert mean_of_labels(sums, name) == pytest.approx(sum(values) / 3)


def test_rows_without_options_or_with_another_reference_are_counted_and_named():
    result = ReportOptions().score([answer("yes", "yes", options=()), answer("lower lobe", "apex; lower lobe")])
    assert [row["correct"] for row in result.rows] == [False, False]
    assert result.notices == [
        "rows without options, counted as wrong: 1 of 2 (the first is 1-lung_opacity_body_region)",
        "rows whose reference is not made of options, counted as wrong: 1 of 2"
        " (the first is 1-lung_opacity_body_region)",
    ]
    assert right_options(answer("", "the lower lobe").question) == {1}
    with pytest.raises(UserError, match="report_options: no row has 'options'"):
        ReportOptions().score([answer("yes", "yes", options=())])
