import multiprocessing
import os
import shutil
import threading

import numpy as np
import pytest

from helpers.open_files import open_files_below
from medcap.datasets.rows import json_file as row_index
from medcap.datasets.rows.json_file import open_rows
from medcap.errors import UserError

LINES = '{"a": "é"}\n\n  \t\n{"a": "②"}\r\n\r\n {"a": 3} \n{"a": [4, "}"]}'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path, content):
    """A file that was written long ago: only such an index is kept."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def values(rows):
    return [rows.read(index) for index in range(len(rows))]


def never(*arguments):
    raise AssertionError("the file is indexed again")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"data file .*none\.json does not exist"):
        open_rows(tmp_path / "none.json")


def test_a_damaged_row_is_an_error_of_that_row_alone(tmp_path):
    path = write(tmp_path / "rows", '{"a": 1}\n{"a": \n{"a": 3}\n' + "[" * 200_000 + '\n{"a": "cut')
    rows = open_rows(path)
    assert [rows.read(0), rows.read(2)] == [{"a": 1}, {"a": 3}]
    for index, message in (
        (1, r"row 1: not valid JSON \(Expecting value\); fix"),
        (3, r"row 3: not valid JSON \(nested too deeply\)"),
        (4, r"row 4: not valid JSON \(Unterminated string starting at\); is the file cut off\?"),
    ):
        with pytest.raises(UserError, match=message) as error:
            rows.read(index)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_number_without_a_row_is_no_row(tmp_path):
    rows = open_rows(write(tmp_path / "rows", LINES))
    for index in (-1, 4):
        with pytest.raises(IndexError, match="has 4 rows"):
            rows.read(index)


def test_names_and_orders(tmp_path):
    path = write(tmp_path / "rows", "1\n2\n3\n4\n5")
    rows = open_rows(path)
    assert rows.name(3) == f"{path}, row 3"
    assert rows.order(None).tolist() == [0, 1, 2, 3, 4]
    shuffled = rows.order(np.random.default_rng(0))
    assert shuffled.dtype == rows.order(None).dtype == np.int64
    assert shuffled.tolist() == np.random.default_rng(0).permutation(5).tolist()


def test_a_second_opening_takes_the_index_from_the_cache(tmp_path, monkeypatch):
    path = write(tmp_path / "rows", LINES)
    first = open_rows(path)
    monkeypatch.setattr(row_index, "find_spans", never)
    second = open_rows(path)
    assert values(second) == values(first)
    assert second.fingerprint == first.fingerprint


@pytest.mark.parametrize("size", [0, 100])
def test_a_damaged_index_is_built_again(tmp_path, cache, size):
    path = write(tmp_path / "rows", LINES)
    expected = values(open_rows(path))
    (entry,) = cache.glob("rows/*/spans.npy")
    os.truncate(entry, size)
    assert values(open_rows(path)) == expected
    assert len(np.load(entry)) == 4


def test_a_fingerprint_is_of_the_content_alone(tmp_path):
    path = write(tmp_path / "rows", LINES)
    copy = tmp_path / "copy"
    shutil.copyfile(path, copy)
    assert open_rows(path).fingerprint == open_rows(copy).fingerprint
    assert open_rows(write(copy, LINES.replace("3", "5"))).fingerprint != open_rows(path).fingerprint


def test_a_changed_file_is_indexed_again(tmp_path):
    path = write(tmp_path / "rows", "[1, 2]")
    assert values(open_rows(path)) == [1, 2]
    write(path, "[1, 2, 3]")
    assert values(open_rows(path)) == [1, 2, 3]


def test_a_file_rewritten_in_the_same_tick_of_the_clock_is_indexed_again(tmp_path):
    path = tmp_path / "rows"
    for text, expected in (("[123,4]", [123, 4]), ("[1,234]", [1, 234])):
        path.write_text(text)
        os.utime(path, ns=(now := 2**62, now))
        assert values(open_rows(path)) == expected


def test_a_file_that_changes_after_it_was_opened_is_refused(tmp_path):
    path = write(tmp_path / "rows", "[1, 2]")
    rows = open_rows(path)
    path.write_text("[1,22]")
    with pytest.raises(UserError, match="was changed after it was opened: start again"):
        rows.read(0)


def test_a_file_that_is_cut_while_it_is_used_is_refused(tmp_path):
    path = write(tmp_path / "rows", "[1, 2]")
    rows = open_rows(path)
    assert rows.read(0) == 1
    os.truncate(path, 4)
    with pytest.raises(UserError, match="was changed"):
        rows.read(1)


def test_a_file_that_changes_while_it_is_indexed_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "rows", "1\n2\n")
    find_spans = row_index.find_spans

    def find_while_it_grows(file, position):
        result = find_spans(file, position)
        with path.open("a") as more:
            more.write("3\n")
        return result

    monkeypatch.setattr(row_index, "find_spans", find_while_it_grows)
    with pytest.raises(UserError, match="was changed while it was read"):
        open_rows(path)


def test_a_file_removed_after_opening_is_an_error(tmp_path):
    path = write(tmp_path / "rows", "[1, 2]")
    rows = open_rows(path)
    path.unlink()
    with pytest.raises(UserError, match="can no longer be opened: No such file"):
        rows.read(0)


def test_a_relative_path_keeps_its_meaning_when_the_folder_changes(tmp_path, monkeypatch):
    write(tmp_path / "rows", "[1, 2]")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    rows = open_rows("rows")
    monkeypatch.chdir(tmp_path / "other")
    assert rows.read(1) == 2
    assert rows.name(1) == "rows, row 1"


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_another_process_reads_the_same(tmp_path, cache, kept):
    rows = open_rows(write(tmp_path / "rows", LINES))
    expected = values(rows)
    if not kept:
        shutil.rmtree(cache)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(rows.read, range(4)) == expected


@pytest.mark.processes
def test_a_forked_process_opens_the_file_for_itself(tmp_path):
    rows = open_rows(write(tmp_path / "rows", LINES))
    expected = values(rows)
    own = rows._file[1].number
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send((values(rows), rows._file[1].number)))
    process.start()
    found, descriptor = receiver.recv()
    process.join()
    assert found == expected
    assert descriptor != own


def test_a_process_that_starts_after_a_change_refuses_the_file(tmp_path):
    path = write(tmp_path / "rows", "[1, 2]")
    rows = open_rows(path)
    state = rows.__getstate__()
    write(path, "[1, 2, 3]")
    received = object.__new__(type(rows))
    received.__dict__.update(state)
    assert len(received) == 2
    with pytest.raises(UserError, match="was changed after it was opened"):
        received.read(0)


def test_threads_share_the_rows(tmp_path):
    rows = open_rows(write(tmp_path / "rows", "\n".join(str(number) for number in range(500))))
    barrier = threading.Barrier(8)
    found = []

    def read():
        barrier.wait()
        found.append(values(rows) == list(range(500)))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


def test_no_descriptor_stays_open(tmp_path):
    path = write(tmp_path / "rows", LINES)
    with path.open():
        assert len(open_files_below(tmp_path)) == 1
    for _ in range(5):
        open_rows(path).read(0)
    assert open_files_below(tmp_path) == []
