import sqlite3

import pytest

from medcap.datasets.conversion.disk_table import DiskTable
from medcap.errors import UserError


def test_keys_are_sorted_and_texts_stay_in_their_order(tmp_path):
    with DiskTable(tmp_path) as table:
        for key, text in (("é", "1"), ("b", "z"), ("\udcff", "bytes"), ("b", "a"), ("B", "")):
            table.add(key, text)
        assert list(table.sorted_keys()) == ["B", "b", "é", "\udcff"]
        assert [table.texts(key) for key in ("b", "none", "\udcff")] == [["z", "a"], [], ["bytes"]]
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match=rf"^no temporary table can be kept in {tmp_path}: full$"), DiskTable(tmp_path):
        raise sqlite3.OperationalError("full")
    assert list(tmp_path.iterdir()) == []
