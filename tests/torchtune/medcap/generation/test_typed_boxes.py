import pytest

from medcap.errors import UserError
from medcap.generation.typed_boxes import place_boxes

ONE, TWO = "[1, 2, 3, 4]", "{<5><6><7><8>}"


@pytest.mark.parametrize(
    ("text", "written", "placed"),
    [
        ("What is it?", [], "What is it?"),
        ("What is in {box}?", [ONE], f"What is in {ONE}?"),
        ("What is it?", [ONE, TWO], f"What is it? {ONE} {TWO}"),
        ("Is {box 2} in {box1}, or {box 2} in {box 1}?", [ONE, TWO], f"Is {TWO} in {ONE}, or {TWO} in {ONE}?"),
        ("{box} and {box}", [ONE, TWO], f"{ONE} and {TWO}"),
        ("Is {box 1} like this?", [ONE, TWO], f"Is {ONE} like this? {TWO}"),
        ("", [ONE], ONE),
        ("a {boxed} {<1><2><3><4>} thing", [], "a {boxed} {<1><2><3><4>} thing"),
    ],
)
def test_boxes_stand_where_the_words_name_them_and_the_others_follow(text, written, placed):
    assert place_boxes(text, written) == placed


@pytest.mark.parametrize("text", ["{box} {box} {box}", "{box 1} {box 3}", "{box 0}", "{box 999999}"])
def test_a_box_that_there_is_not_is_named(text):
    with pytest.raises(UserError, match=r"\{box.*\} names a box that does not exist: 2 were given"):
        place_boxes(text, [ONE, TWO])
