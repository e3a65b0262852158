import pytest

from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        ('{"a": 1}\n\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('\ufeff[{"a": "é"}]', [{"a": "é"}]),
        ("[]", []),
    ],
)
def test_arrays_and_lines_are_distinguished(tmp_path, text, rows):
    path = tmp_path / "rows"
    path.write_text(text, encoding="utf-8")
    assert list(read_rows(path)) == list(enumerate(rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"a": 1},\n{"a": ', "line 3: not valid JSON"),
        ('{"a": 1}\n{"a": \n', "line 2: not valid JSON"),
        ("", "is empty"),
    ],
)
def test_a_cut_file_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "rows"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        list(read_rows(path))


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "rows").write_bytes(b"\xff\xfe[")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        list(read_rows(tmp_path / "rows"))
