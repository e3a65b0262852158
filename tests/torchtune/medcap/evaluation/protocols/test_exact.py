import pytest

from medcap.evaluation.protocols.exact import exact_match, normalize, token_f1


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
    ],
)
def test_token_f1_takes_the_best_reference(prediction, references, expected):
    assert token_f1(prediction, references) == pytest.approx(expected)
