import pytest

from medcap.datasets.conversion.example import SkipRecord
from medcap.datasets.conversion.fields import image_of, safe_name, text_of


def test_numbers_are_words_and_blanks_are_taken_away():
    assert [text_of({"a": value}, "a") for value in (" b ", 3, 0, 1.5)] == ["b", "3", "0", "1.5"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "there is no 'a'"),
        ("", "'a' is empty"),
        ("NaN", "'a' is empty"),
        (float("nan"), "'a' is empty"),
        ([], "'a' is not text"),
        (True, "'a' is not text"),
    ],
)
def test_something_that_is_not_text_is_said(value, reason):
    with pytest.raises(SkipRecord, match=reason):
        text_of({"a": value}, "a")


def test_names_stay_in_their_folder():
    assert image_of({"a": "sub/b..c.png"}, "a") == "sub/b..c.png"
    for name in ("/a.png", "../a.png", "a/../../b.png", "a\0.png"):
        with pytest.raises(SkipRecord, match="leads out of its folder"):
            safe_name(name)
