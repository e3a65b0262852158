import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.protocols.medplib import Medplib


def answer(prediction, reference, answer_type, name="q"):
    return make_answer(name, "", (reference,), prediction, answer_type=answer_type)


def test_candidates_are_the_references_of_the_file_in_its_order():
    rows = [
        answer("nothing", "left lung", "open"),
        answer("the lung", "right lung", "Other"),
        answer("right side", "right lung", "number"),
        answer("yes", "yes", "Yes/No"),
    ]
    result = Medplib().score(rows)
    assert [row["correct"] for row in result.rows] == [True, False, True, True]
    assert result.scores["open.accuracy"] == pytest.approx(2 / 3)
    assert result.scores["accuracy"] == 0.75
    assert result.notices == [
        "open.accuracy: the candidates are the references of this file in the order of the rows; the published order is"
        " random"
    ]
    # In the other order ties, and the row without a common word, go to other candidates.
    assert [row["correct"] for row in Medplib().score(rows[::-1]).rows] == [True, True, True, False]


def test_an_answer_equal_to_its_reference_is_right_whatever_the_retrieval_says():
    rows = [
        answer("x", "lung", "open"),
        answer("the lung", "lung lung", "open"),
        answer("lung lung", "lung lung", "open"),
    ]
    assert [row["correct"] for row in Medplib().score(rows).rows] == [True, False, True]


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [("Yes.", "yes", 1.0), ("yes it is", "yes", 0.0), ("normal", "no", 0.0), ("the left", "left", 1.0), ("", "A", 1.0)],
)
def test_closed_is_equality(prediction, reference, right):
    result = Medplib().score([answer(prediction, reference, "closed")])
    assert result.scores == {"closed.accuracy": right, "accuracy": right}
    assert len(result.notices) == (prediction == "")


def test_unknown_answer_types_are_refused():
    with pytest.raises(UserError, match=r"no row has an 'answer_type' of open, other, number, closed or yes/no"):
        Medplib().score([answer("yes", "yes", "")])
