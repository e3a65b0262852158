import json

import pytest

from medcap.data.json_text import DEEPEST, JsonError, parse_json


def nested(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null, "é"]}', "[]", "NaN", '"[[["', nested(DEEPEST), "1" * 4300])
def test_what_json_reads_is_read(text):
    value = parse_json(text)
    assert value == json.loads(text) or value != value
    assert parse_json(text.encode()) == value or value != value


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ('{"a": 1,\n"b"', "Expecting ':' delimiter", 2),
        ("", "Expecting value", 1),
        (nested(60_000), "nested too deeply", None),
        (nested(DEEPEST + 1), "nested too deeply", None),
        ('{"a":' * 500 + "1" + "}" * 500, "nested too deeply", None),
        ('{"a": ' + "1" * 5001 + "}", "a number has more than 4,300 digits", None),
        ("-" + "1" * 5001, "a number has more than 4,300 digits", None),
        (b'{"a": "\xff"}', "not UTF-8 text: invalid start byte at byte 7", None),
        (b"\xff\xfe[\x00]\x00", "not UTF-8 text: invalid start byte at byte 0", None),
    ],
)
def test_what_is_wrong_is_one_line(text, reason, line):
    with pytest.raises(JsonError) as caught:
        parse_json(text)
    assert (caught.value.reason, caught.value.line) == (reason, line)
    assert "\n" not in str(caught.value)


def test_many_brackets_side_by_side_are_not_deep():
    assert parse_json(f"[{','.join(['[[]]'] * 1000)}]") == [[[]]] * 1000
