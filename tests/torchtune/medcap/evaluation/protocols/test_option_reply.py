import pytest

from medcap.evaluation.protocols.option_reply import parse_option

OPTIONS = ["heart", "lung", "liver", "Lung nodule"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        # a letter
        ("B", 1),
        ("b.", 1),
        ("(B)", 1),
        ("**B**", 1),
        ('"B"', 1),
        ("A.", 0),
        ("$\\boxed{B}$", 1),
        # a letter with the option's text
        ("B. lung", 1),
        ("B) lung", 1),
        ("b) lung", 1),
        ("B.lung", 1),
        ("B: lung", 1),
        ("B - lung", 1),
        ("B\nlung", 1),
        ("A. lung", 0),
        # a letter in a sentence
        ("Answer: B", 1),
        ("**Answer:** B", 1),
        ("Answer:\n\nC", 2),
        ("Answer: 'B'", 1),
        ("The correct answer is B.", 1),
        ("The correct answer is (B) lung.", 1),
        ("The answer is: option c", 2),
        ("Based on the question and our answer, the correct option is: B.", 1),
        ("Option B", 1),
        ("Choice C: liver", 2),
        ("The letter is d", 3),
        ("I would go with D.", 3),
        ("I think it is B", 1),
        ("A is correct", 0),
        ("Answer: A because it is", 0),
        ("(A) is the heart, (B) the lung. The answer is (B).", 1),
        # a text
        ("lung", 1),
        ("Lung.", 1),
        ("It shows the liver.", 2),
        ("A lung nodule", 3),
        ("The answer is a lung nodule", 3),
        ("X ray of the lung", 1),
        ("lung\nnodule", 3),
        # words that begin with a letter, articles, parts of words
        ("Both lungs are seen", None),
        ("Cannot say", None),
        ("A nodule is seen", None),
        ("The answer is a nodule", None),
        ("The patient's C-arm", None),
        ("I see", None),
        # more than one
        ("B or C", None),
        ("A and B", None),
        ("A, B", None),
        ("A/B", None),
        ("(A) and (B)", None),
        ("Answer: A or B", None),
        ("heart or lung", None),
        ("A. heart\nB. lung\nC. liver", None),
        ("A. heart B. lung C. liver", None),
        # denied
        ("not B", None),
        ("The answer is not B but C", 2),
        ("Not the lung, but the liver", 2),
        ("Neither A nor B", None),
        # past the last option
        ("E", None),
        ("Answer: E", None),
        ("E. lung", None),
        ("Option Z", None),
        # nothing
        ("", None),
        ("   ", None),
        ("...", None),
        ("?", None),
        ("42", None),
    ],
)
def test_replies(reply, expected):
    assert parse_option(reply, OPTIONS) == expected


@pytest.mark.parametrize(
    ("reply", "options", "expected"),
    [
        ("Yes, there is no fracture", ["Yes", "No"], 0),
        ("No fracture", ["Yes", "No"], 1),
        ("There is no fracture", ["fracture", "no fracture"], 1),
        ("There is no fracture", ["fracture", "normal"], None),
        ("E. coli is seen", ["S. aureus", "E. coli"], 1),
        ("Hepatitis B is likely", ["Hepatitis B", "Hepatitis A"], 0),
        ("C. Vitamin C", ["Vitamin A", "Vitamin B", "Vitamin C"], 2),
        ("hepatitis B", ["x1", "x2"], None),
        ("B", ["B", "A"], 1),
        ("x", ["w", "x"], 1),
        ("12 cm", ["1 cm", "2 cm"], None),
        ("it is 2 cm", ["1 cm", "2 cm"], 1),
        ("C", ["yes", "no"], None),
        ("lung", ["lung", "Lung"], 0),
        ("İlk: lung", ["heart", "lung"], 1),
        ("B", [], None),
    ],
)
def test_replies_to_other_options(reply, options, expected):
    assert parse_option(reply, options) == expected
