import json

import numpy as np
import pytest

from medcap.datasets.rows import json_spans as row_spans
from medcap.datasets.rows.json_file import open_rows
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "cache"))


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def values(rows):
    return [rows.read(index) for index in range(len(rows))]


CONTENTS = {
    "lines": (
        '{"a": "é"}\n\n  \t\n{"a": "②"}\r\n\r\n {"a": 3} \n{"a": [4, "}"]}',
        [{"a": "é"}, {"a": "②"}, {"a": 3}, {"a": [4, "}"]}],
    ),
    "newline at the end": ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
    "one object": ('{"a": 1}', [{"a": 1}]),
    "lines with a byte order mark": ('\ufeff{"a": 1}\n{"a": 2}', [{"a": 1}, {"a": 2}]),
    "blank line behind a byte order mark": ('\ufeff  \n{"a": 2}', [{"a": 2}]),
    "old line ends": ('{"a": 1}\r{"a": 2}\r', [{"a": 1}, {"a": 2}]),
    "array": (
        '\n[ {"a": "é②\\"]"} ,\n\t{"b": {"c": [1, {}]}},12, "x", null,-1.5e3]\n\n',
        [{"a": 'é②"]'}, {"b": {"c": [1, {}]}}, 12, "x", None, -1500.0],
    ),
    "array with a byte order mark": ('\ufeff[{"a": "é"}]', [{"a": "é"}]),
    "array of long rows": (
        json.dumps(["x" * 500, {"y": ["z" * 300]}, 1], indent=2),
        ["x" * 500, {"y": ["z" * 300]}, 1],
    ),
}


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1 << 22])
@pytest.mark.parametrize(("text", "expected"), CONTENTS.values(), ids=CONTENTS)
def test_rows_are_those_of_read_rows_wherever_blocks_end(tmp_path, monkeypatch, block, text, expected):
    monkeypatch.setattr(row_spans, "_BLOCK", block)
    path = write(tmp_path / "rows", text)
    rows = open_rows(path)
    assert values(rows) == expected
    assert [json.loads(row) for row in row_spans.stream_rows(path)] == expected
    assert expected == [value for _, value in read_rows(path)]


def test_rows_before_a_mistake_are_streamed_and_then_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(row_spans, "_BLOCK", 4)
    for name, text, message in (
        ("cut", '[{"a": 1},\n{"b"', r"cut, line 2: not valid JSON .*is the file cut off"),
        ("latin", b'{"a": 1}\n\n\n\n\n\xff', r"latin is not UTF-8 text: invalid start byte at byte 13"),
    ):
        rows = row_spans.stream_rows(write(tmp_path / name, text))
        assert next(rows) == b'{"a": 1}'
        with pytest.raises(UserError, match=message):
            next(rows)
    for name, message in (("blank", r"blank is empty"), ("none", r"none cannot be read: No such file")):
        if name == "blank":
            write(tmp_path / name, " \n")
        with pytest.raises(UserError, match=message):
            next(row_spans.stream_rows(tmp_path / name))


def test_random_lines_are_found_as_splitting_finds_them(tmp_path, monkeypatch):
    monkeypatch.setattr(row_spans, "_BLOCK", 50)
    generator = np.random.default_rng(0)
    pieces = ["1", " 2", '"é②"', "", " ", "\t \t", "[3, 4]"]
    for number in range(50):
        text = "7\n" + "\n".join(generator.choice(pieces, size=40))
        rows = open_rows(write(tmp_path / f"rows{number}", text))
        assert values(rows) == [json.loads(line) for line in text.split("\n") if line.strip()]


@pytest.mark.parametrize("indent", [None, 2])
def test_random_arrays_are_found_as_decoding_finds_them(tmp_path, monkeypatch, indent):
    monkeypatch.setattr(row_spans, "_BLOCK", 37)
    generator = np.random.default_rng(1)
    pieces = [1, 23456, -1.5, "é②]", '\\",', {"a": [1, {"b": "[["}]}, [], {}, None, True, "y" * 200]
    for number in range(50):
        expected = [pieces[index] for index in generator.integers(len(pieces), size=20)]
        text = json.dumps(expected, ensure_ascii=bool(number % 2), indent=indent)
        assert values(open_rows(write(tmp_path / f"rows{number}", text))) == expected


BROKEN_ARRAYS = [
    '[\n{"a": 1},\n{"a": ',
    '[\n{"a": 1},\n{"a": "cut',
    '[\n{"a": 1}',
    '[\n{"a": 1},\n',
    "[",
    '[{"a": 1}\n\n{"a": 2}]',
    '[{"a": 1}]\n{"a": 2}',
    "[1, 2,\n]",
    "[1, tru",
    '["a\nb"]',
]


@pytest.mark.parametrize("block", [1, 5, 1 << 22])
@pytest.mark.parametrize("text", BROKEN_ARRAYS)
def test_a_broken_array_is_named_as_read_rows_names_it(tmp_path, monkeypatch, block, text):
    monkeypatch.setattr(row_spans, "_BLOCK", block)
    path = write(tmp_path / "rows", text)
    with pytest.raises(UserError) as expected:
        list(read_rows(path))
    with pytest.raises(UserError) as found:
        open_rows(path)
    assert str(found.value) == str(expected.value)
    assert "not valid JSON" in str(found.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\xef\xbb\xbf\n", "is empty"),
        (b"[]", "holds no rows"),
        (b"[ \n]\n", "holds no rows"),
        (b"\xff\xfe[", "is not UTF-8 text: invalid start byte at byte 0"),
        (b'{"a": 1}\n{"a": "\xe9"}', "is not UTF-8 text: .* at byte 16"),
        (b'{"a": "\xc3', "is not UTF-8 text: unexpected end of data at byte 7"),
        (b"[" * 200_000, "line 1: not valid JSON .nested too deeply"),
    ],
)
@pytest.mark.parametrize("block", [1, 1 << 22])
def test_a_file_that_holds_no_rows_is_an_error_of_one_line(tmp_path, monkeypatch, block, content, message):
    if block == 1 and len(content) > 1000:
        return
    monkeypatch.setattr(row_spans, "_BLOCK", block)
    with pytest.raises(UserError, match=message) as error:
        open_rows(write(tmp_path / "rows", content))
    assert "\n" not in str(error.value)
