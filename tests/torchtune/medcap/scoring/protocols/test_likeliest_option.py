import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.protocols.likeliest_option import LikelyLetter, LikelyText, LikelyTextNormalized

OPTIONS = ("upper", "upper left", "No")


def answer(name, prediction, reference="upper left", options=OPTIONS, modality="CT"):
    groups = {"modality": modality} if modality else {}
    return make_answer(name, "Where?", (reference,), prediction, options, groups=groups)


def test_the_options_own_text_is_right_and_nothing_else():
    answers = [
        answer("1", "upper left"),
        answer("2", "upper"),
        answer("3", "Upper left"),
        answer("4", "upper left", modality="MR"),
        answer("5", ""),
    ]
    result = LikelyText().score(answers)
    assert result.scores == {"accuracy": 0.4, "accuracy_by_modality": pytest.approx((1 / 4 + 1) / 2)}
    assert list(result.intervals) == ["accuracy", "accuracy_by_modality"]
    assert result.counts == {"n": 5, "failures": 1}
    assert [(row["choice"], row["correct"], row["value"]) for row in result.rows] == [
        ("upper left", True, 1.0),
        ("upper", False, 0.0),
        ("Upper left", False, 0.0),
        ("upper left", True, 1.0),
        (None, False, 0.0),
    ]


def test_an_empty_reference_does_not_make_a_failure_right():
    result = LikelyText().score([answer("1", "", reference="")])
    assert (result.scores["accuracy"], result.counts["failures"]) == (0.0, 1)


def test_rows_that_cannot_be_answered_rightly_are_wrong_and_told():
    answers = [
        answer("1", "upper left"),
        answer("2", "upper", reference="elsewhere"),
        answer("3", "", options=(), modality=""),
    ]
    result = LikelyLetter().score(answers)
    assert result.scores["accuracy"] == pytest.approx(1 / 3)
    assert result.notices == [
        "rows without options, counted as wrong: 1 of 3 (the first is 3)",
        "rows whose reference is not an option, counted as wrong: 1 of 3 (the first is 2)",
        "rows without a modality, one group of accuracy_by_modality: 1 of 3 (the first is 3)",
    ]


def test_the_most_likely_option_as_a_whole_or_a_token_are_two_fields_of_one_prompt():
    assert (LikelyText.prompt, LikelyText.field) == ("option_text", "prediction")
    assert (LikelyTextNormalized.prompt, LikelyTextNormalized.field) == ("option_text", "prediction_normalized")


def test_rows_without_any_options_are_refused():
    with pytest.raises(UserError, match=r"^option_text: no row has 'options' \(the first is 7\)"):
        LikelyText().score([answer("7", "yes", options=())])
