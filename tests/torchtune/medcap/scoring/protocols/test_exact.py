import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.protocols.exact import Exact, exact_match, normalize, token_f1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Yes. ", "yes"),
        ("The  left\n lung", "the left lung"),
        ('"No."', "no"),
        ('"No".', "no"),
        ("“PA view”", "pa view"),
        ("don't", "don't"),
        ("1.5", "1.5"),
        ("...", ".."),
        (".", ""),
        ('"', '"'),
        ("", ""),
    ],
)
def test_normalisation_is_light(text, expected):
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("prediction", "references", "right"),
    [
        ("Yes.", ["yes"], True),
        ("yes it is", ["yes"], False),
        ("normal", ["no"], False),
        ("left", ["right", "Left."], True),
        ("", ["yes"], False),
        ("   ", [""], False),
        (".", ["."], False),
        ("2.0", ["2"], True),
        ("2", ["3", "2.00"], True),
        ("1e0", ["1"], True),
        ("2.0 cm", ["2 cm"], False),
        ("<think>Left? No.</think>Right.", ["right"], True),
        ("<think>left</think>right", ["left"], False),
        ("Left? No.</think>right", ["right"], True),
        ("<think>right", ["right"], False),
        ("```\nright\n```", ["right"], True),
    ],
)
def test_only_equality_is_right_and_an_empty_answer_never_is(prediction, references, right):
    assert exact_match(prediction, references) is right


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("the left lung", ["left lung"], 0.8),
        ("left, lung", ["lung left."], 1.0),
        ("a a", ["a"], 2 / 3),
        ("right", ["left lung", "right lung"], 2 / 3),
        ("", ["left"], 0.0),
        ("?!", ["left"], 0.0),
        ("<think>left lung</think>right", ["right"], 1.0),
        ("2.0 masses", ["2 masses"], 1.0),
    ],
)
def test_token_f1_takes_the_best_reference(prediction, references, expected):
    assert token_f1(prediction, references) == pytest.approx(expected)


def test_the_protocol_takes_any_reference_and_counts_failures():
    rows = [
        make_answer("1", "", ("left", "Left lung."), "left lung"),
        make_answer("2", "", ("right lung",), "lung"),
        make_answer("3", "", ("yes",), ""),
    ]
    result = Exact().score(rows)
    assert result.scores == pytest.approx({"accuracy": 1 / 3, "token_f1": (1 + 2 / 3) / 3})
    assert result.counts == {"n": 3, "failures": 1}
    assert result.rows[1] == {
        "question_id": "2",
        "accuracy": 0.0,
        "token_f1": pytest.approx(2 / 3),
        "correct": False,
        "value": 0.0,
    }
    assert result.intervals["accuracy"] == {"low": 0.0, "high": 1.0, "level": 0.95, "draws": 10_000}


def test_the_protocol_refuses_nothing_to_score():
    with pytest.raises(UserError, match="exact: there are no answers"):
        Exact().score([])


def test_replies_that_end_within_their_reasoning_are_wrong_and_counted():
    rows = [make_answer("1", "", ("left",), "<think>left"), make_answer("2", "", ("left",), "left")]
    result = Exact().score(rows)
    assert (result.scores["accuracy"], result.counts["failures"]) == (0.5, 0)
    assert result.notices == [
        "replies with reasoning or tags, which are taken off: 1 of 2 (the first is 1)",
        "replies that end within their reasoning, counted as wrong: 1 of 2 (the first is 1)",
    ]
