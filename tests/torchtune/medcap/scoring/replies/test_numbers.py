import pytest

from medcap.scoring.replies.numbers import number_in, number_text, plain_number, same_number


@pytest.mark.parametrize(
    ("text", "other", "same"),
    [
        ("2", "2.0", True),
        ("2.00", "2", True),
        ("2.", "2", True),
        ("1e0", "1", True),
        ("+3", "3", True),
        ("-0.50", "-.5", True),
        ("0.1", "0.10", True),
        ("100", "1E2", True),
        ("2", "3", False),
        ("0.1", "0.1000000000000000000001", False),
        ("2", "2,0", False),
        ("2 cm", "2.0 cm", False),
        ("nan", "nan", False),
        ("inf", "inf", False),
        ("", "", False),
        ("yes", "yes", False),
        ("٢", "2", False),
    ],
)
def test_a_number_is_the_same_however_it_is_written(text, other, same):
    assert same_number(text, other) is same_number(other, text) is same


def test_a_text_is_a_number_as_a_whole_and_within_bounds():
    assert number_in(" 2.5\n") == number_in("2.5")
    assert number_in("2.5.1") is number_in("1e99999") is number_in("9" * 5000) is number_in("1/2") is None


@pytest.mark.parametrize(
    ("value", "text"), [(2, "2"), (2.0, "2"), (1e0, "1"), (2.5, "2.5"), (-3.0, "-3"), (1e22, "1" + "0" * 22)]
)
def test_a_whole_number_of_a_file_has_no_fraction(value, text):
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("text", "plain"), [("2.50", "2.5"), ("1e2", "100"), ("lung", "lung"), ("2 cm", "2 cm"), ("0.0", "0")]
)
def test_a_plain_number_has_no_zeros_after_its_fraction(text, plain):
    assert plain_number(text) == plain
