import pytest

from medcap.evaluation.judges.parsing import PARSINGS, parse_medcap, parse_strict


@pytest.mark.parametrize(
    ("reply", "strict", "medcap"),
    [
        ("RIGHT", "RIGHT", "RIGHT"),
        ("WRONG", "WRONG", "WRONG"),
        ("right", "RIGHT", "RIGHT"),
        ("Right.", "RIGHT", "RIGHT"),
        ("**WRONG**", "WRONG", "WRONG"),
        ('\n  "Right!"  \n', "RIGHT", "RIGHT"),
        ("__RIGHT__", "RIGHT", "RIGHT"),
        ("`wrong`", "WRONG", "WRONG"),
        ("---\n# RIGHT", "RIGHT", "RIGHT"),
        ("RIGHT\n\nBoth name the same finding.", "RIGHT", "RIGHT"),
        ("WRONG\n\nThe mass is in the left lung.", "WRONG", "WRONG"),
        ("RIGHT\nRIGHT", "RIGHT", "RIGHT"),
        # medcap's defect: the letters occur.
        ("WRONG, it is the right lung", "UNPARSED", "RIGHT"),
        ("WRONG\nIt is the right lung.", "UNPARSED", "RIGHT"),
        ("The right lung is affected.", "UNPARSED", "RIGHT"),
        ("RIGHT or WRONG?", "UNPARSED", "RIGHT"),
        ("RIGHT\nor _wrong_", "UNPARSED", "RIGHT"),
        ("bright", "UNPARSED", "RIGHT"),
        ("not right", "UNPARSED", "RIGHT"),
        ("The answer is RIGHT.", "UNPARSED", "RIGHT"),
        ("RIGHT because both say so", "UNPARSED", "RIGHT"),
        ("Explanation:\nWRONG", "UNPARSED", "WRONG"),
        ("R I G H T", "UNPARSED", "WRONG"),
        ("Yes", "UNPARSED", "WRONG"),
        ("", "UNPARSED", "WRONG"),
        (" **\n", "UNPARSED", "WRONG"),
    ],
)
def test_a_reply_is_one_verdict_or_none(reply, strict, medcap):
    assert parse_strict(reply) == strict
    assert parse_medcap(reply) == medcap


def test_strict_comes_first():
    assert list(PARSINGS) == ["strict", "medcap"]
