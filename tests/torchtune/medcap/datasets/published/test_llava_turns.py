import pytest

from medcap.datasets.published.llava_turns import conversation_questions
from medcap.errors import UserError


def turn(role, value):
    return {"from": role, "value": value}


def test_pairs_of_turns_without_the_system_s():
    turns = [turn("system", "s"), turn("human", "a? "), turn("gpt", 1), turn("user", "b?"), turn("assistant", "2")]
    assert list(conversation_questions(turns, "conversations")) == [("a?", "1"), ("b?", "2")]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ("text", "'key' must be a list of turns"),
        ([{"from": "human"}], "'key' must be a list of turns"),
        ([turn("human", "a")], "'key' must be pairs"),
        ([turn("gpt", "a"), turn("human", "b")], "'key' must alternate"),
    ],
)
def test_something_that_is_not_a_pair_is_said(turns, message):
    with pytest.raises(UserError, match=message):
        list(conversation_questions(turns, "key"))
