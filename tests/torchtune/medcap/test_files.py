import json
import math

import numpy as np
import pytest

from medcap.errors import UserError
from medcap.files import keep_inputs, make_folder, plain, write_json, write_text


def test_json_has_no_nan_and_no_foreign_types(tmp_path):
    path = tmp_path / "a.json"
    value = {"a": math.nan, "b": [np.float32(0.5), math.inf], "c": tmp_path, 1: (True, None), "é": np.int64(3)}
    write_json(path, plain(value))
    expected = {"a": None, "b": [0.5, None], "c": str(tmp_path), "1": [True, None], "é": 3}
    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail) == expected


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_does_not_have_is_refused_and_the_old_file_stays(tmp_path, number):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": number})
    assert json.loads(path.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_text_replaces_a_file_whole_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "a.csv"
    write_text(path, "old")
    write_text(path, "a\nb \udcff", encoding="utf-8-sig")
    assert path.read_bytes() == b"\xef\xbb\xbfa\nb ?"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_names_the_key(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output_dir"):
        make_folder(tmp_path / "file" / "folder")
    with pytest.raises(UserError, match=r"--index: the folder .*file/folder cannot be created: Not a directory"):
        make_folder(tmp_path / "file" / "folder", "--index")


def test_a_file_that_is_read_is_not_written_over(tmp_path):
    (tmp_path / "rows.json").write_text("[]")
    (tmp_path / "link.json").symlink_to("rows.json")
    keep_inputs("--out", tmp_path / "other.json", tmp_path / "rows.json")
    for name in ("rows.json", "link.json", "gone/../rows.json"):
        with pytest.raises(UserError, match=f"--out .*{name} would replace the file that is read: name another one"):
            keep_inputs("--out", tmp_path / name, tmp_path / "other.json", tmp_path / "rows.json")
