import pytest

from medcap.scoring.replies.option_reply import parse_option
from medcap.scoring.replies.option_words import named_options, positions

NUMBERS = ["2", "3"]
WHOLE = (
    "2 | 2. | 2.0 | 2.00 | +2 | 2e0 | ２ | (2) | Answer: 2 | It is 2 cm | There are 2 nodules. | 2, I think | 答案是2"
    " | There are 2. | grade-2 | 2-year-old | 2.0 nodules"
)
WHOLE = (
    "2 | 2. | 2.0 | 2.00 | +2 | 2e0 | ２ | (2) | Answer: 2 | It is 2 cm | There are 2 nodules. | 2, I think | 答案是2"
    " | There are 2. | grade-2 | 2-year-old | 2.0 nodules"
)
PARTS = (
    "2.5 | 2,5 | 12.25 | -2 | 2% | 2 % | 2-3 | 2–3 | 2 to 3 | 1/2 | 2/3 | 2x | 2nd | 2:30 | 1,200 | 20 | 2½"
    " | It is 2.5 cm | about 12.25 mm | between 2-4 | .2 | <2 | ≥ 2 | 10^2 | v2 | 1.2.3 | It is -2 now | 2²"
)


def test_the_longer_option_is_found_first_and_all_are_hidden():
    named, rest = named_options("no fracture of the lung", ["fracture", "no fracture", "lung"])
    assert (named, rest) == ({1, 2}, "\0" * 11 + " of the " + "\0" * 4)


@pytest.mark.parametrize(
    ("text", "option", "expected"),
    [
        ("an x ray, an xray, an X-Ray", "X-ray", [(3, 8), (13, 17), (22, 27)]),
        ("Small-cell", "small cell", [(0, 10)]),
        ("smallcell", "small cell", []),
        ("the lungs", "lung", []),
        ("lung\nnodule", "lung nodule", [(0, 11)]),
        ("答案是 lung", "lung", [(4, 8)]),
        ("肺炎", "肺", []),
        ("2-3 and 2 3 and 23", "2-3", [(0, 3)]),
        ("2.0 and 2 and +2", "2", [(0, 3), (8, 9), (14, 16)]),
        ("anything", "", []),
    ],
)
def test_whole_words(text, option, expected):
    assert positions(text, option) == expected


@pytest.mark.parametrize("reply", PARTS.split(" | "))
def test_a_part_of_a_number_is_not_that_number(reply):
    assert parse_option(reply, NUMBERS) is None


@pytest.mark.parametrize("reply", WHOLE.split(" | "))
def test_a_whole_number_is_found_however_it_is_written(reply):
    assert parse_option(reply, NUMBERS) == 0


@pytest.mark.parametrize(
    ("reply", "options", "expected"),
    [
        ("it is 2.50 cm", ["2.5", "2"], 0),
        ("it is -2", ["-2", "2"], 0),
        ("-2", ["2", "-2"], 1),
        ("it is 1.2 cm", ["1 cm", "2 cm"], None),
        ("0.1 cm", ["1 cm", "2 cm"], None),
        ("-1 cm", ["1 cm", "2 cm"], None),
        ("it is 2 cm.", ["1 cm", "2 cm"], 1),
        ("Grade 2.5", ["Grade 2", "Grade 3"], None),
        ("Grade 2.", ["Grade 2", "Grade 3"], 0),
        ("5 %", ["5%", "5 %"], 1),
        ("two", ["2", "3"], None),
    ],
)
def test_numbers_in_options(reply, options, expected):
    assert parse_option(reply, options) == expected
