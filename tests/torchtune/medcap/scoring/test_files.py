import json
import math

import numpy as np
import pytest

from medcap.errors import UserError
from medcap.scoring.files import make_folder, write_json, write_text


def test_json_has_no_nan_and_no_foreign_types(tmp_path):
    path = tmp_path / "a.json"
    write_json(
        path, {"a": math.nan, "b": [np.float32(0.5), math.inf], "c": tmp_path, 1: (True, None), "é": np.int64(3)}
    )
    expected = {"a": None, "b": [0.5, None], "c": str(tmp_path), "1": [True, None], "é": 3}
    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail) == expected


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
