import json
import os
import threading

import numpy as np
import pytest

from medcap.data.storage import cache
from medcap.data.storage.cache import cache_folder, keep_arrays, load_entry, store_entry

ARRAYS = {"numbers": np.arange(1000, dtype=np.int64), "pairs": np.ones((3, 2), dtype=np.int32)}


def test_the_folder_is_the_named_one_then_xdg_then_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDCAP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / "home/.cache/medcap"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/medcap"
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    assert (tmp_path / "named").is_dir()


def test_a_folder_that_cannot_be_made_is_replaced_by_one_of_the_users_in_the_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    assert cache_folder() == tmp_path / f"tmp/medcap-{os.getuid()}"
    assert cache_folder().stat().st_mode & 0o777 == 0o700


def test_a_temporary_folder_that_others_may_write_to_is_not_believed(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    planted = tmp_path / f"medcap-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    assert cache_folder() != planted


def test_an_entry_comes_back_mapped_and_read_only(tmp_path):
    stored = store_entry(tmp_path / "rows" / "key", ARRAYS, {"name": "é"})
    for entry in (stored, load_entry(tmp_path / "rows" / "key")):
        assert entry.notes == {"name": "é"}
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(entry.arrays[name], array)
            assert not entry.arrays[name].flags.writeable
            assert not entry.arrays[name].flags.owndata
    assert [path.name for path in (tmp_path / "rows").iterdir()] == ["key"]


def test_no_entry_is_none(tmp_path):
    assert load_entry(tmp_path / "key") is None


def truncate(folder):
    os.truncate(folder / "numbers.npy", 500)


def cut_notes(folder):
    os.truncate(folder / "entry.json", 5)


def flip_a_byte(folder):
    content = bytearray((folder / "numbers.npy").read_bytes())
    content[-1] ^= 1
    (folder / "numbers.npy").write_bytes(content)


def remove_an_array(folder):
    (folder / "pairs.npy").unlink()


def other_notes(folder):
    (folder / "entry.json").write_text(json.dumps([1]))


@pytest.mark.parametrize("damage", [truncate, cut_notes, flip_a_byte, remove_an_array, other_notes])
def test_a_damaged_entry_is_none_and_is_replaced(tmp_path, damage):
    folder = tmp_path / "key"
    store_entry(folder, ARRAYS, {})
    damage(folder)
    assert load_entry(folder) is None
    store_entry(folder, ARRAYS, {})
    np.testing.assert_array_equal(load_entry(folder).arrays["numbers"], ARRAYS["numbers"])
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_what_is_good_stays(tmp_path):
    store_entry(tmp_path / "key", ARRAYS, {"writer": 1})
    assert store_entry(tmp_path / "key", ARRAYS, {"writer": 2}).notes == {"writer": 1}


def test_writers_at_the_same_time_all_end_with_a_good_entry(tmp_path):
    folder = tmp_path / "key"
    folder.mkdir()  # damaged, so that they also meet while mending
    barrier = threading.Barrier(8)
    sums = []

    def write():
        barrier.wait()
        sums.append(int(store_entry(folder, ARRAYS, {}).arrays["numbers"].sum()))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [499500] * 8
    assert load_entry(folder) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_where_nothing_can_be_written_the_arrays_are_used_as_they_are(tmp_path):
    (tmp_path / "file").touch()
    entry = store_entry(tmp_path / "file" / "key", ARRAYS, {"a": 1})
    assert entry.arrays["numbers"] is ARRAYS["numbers"]
    assert entry.notes == {"a": 1}


def test_a_full_disc_is_not_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    assert store_entry(tmp_path / "key", ARRAYS, {}).arrays["numbers"] is ARRAYS["numbers"]
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_is_removed_after_a_day(tmp_path):
    for name, age in ((".old", 2 * 86400), (".new", 60)):
        (tmp_path / name).mkdir()
        then = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (then, then))
    store_entry(tmp_path / "key", ARRAYS, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new", "key"]


def test_arrays_are_made_once_and_empty_ones_are_kept_too(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"numbers": np.arange(3), "none": np.empty(0, dtype=np.uint8)}

    for _ in range(3):
        kept = keep_arrays(tmp_path / "entry", make)
        assert kept["numbers"].tolist() == [0, 1, 2]
        assert kept["none"].tolist() == []
    assert made == [1]
    assert keep_arrays(None, make)["numbers"].tolist() == [0, 1, 2]
    assert made == [1, 1]
