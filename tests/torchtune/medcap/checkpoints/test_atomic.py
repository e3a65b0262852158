import os
import signal
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from medcap.checkpoints.atomic import (
    MARKER,
    atomic_folder,
    begin_folder,
    finish_folder,
    is_complete,
    latest_checkpoint,
    point_latest,
    step_folder,
    step_of,
)
from medcap.files import atomic_file, write_json, write_text


def write_step(folder, step, complete=True):
    path = step_folder(folder, step)
    with atomic_folder(path) as temporary:
        write_text(temporary / "vision.json", str(step))
    if not complete:
        (path / MARKER).unlink()
    return path


def test_a_file_appears_whole_and_leaves_nothing_next_to_it(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"é": 1})
    assert (tmp_path / "new" / "a.json").read_text(encoding="utf-8") == '{\n  "é": 1\n}\n'
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["atomic_file", "atomic_folder"])
def test_a_process_killed_while_writing_leaves_what_was_there(tmp_path, kind):
    path = tmp_path / "step_000002"
    if kind == "atomic_file":
        write_text(path, "old")
    else:
        write_step(tmp_path, 2)
    module = "files" if kind == "atomic_file" else "checkpoints.atomic"
    code = (
        f"import os, signal, pathlib; from medcap.{module} import {kind}\n"
        f"with {kind}(pathlib.Path({str(path)!r})) as temporary:\n"
        "    (temporary / 'a' if temporary.is_dir() else temporary).write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    if kind == "atomic_file":
        assert path.read_text() == "old"
        write_text(path, "new")
    else:
        assert (path / "vision.json").read_text() == "2" and is_complete(path)
        assert latest_checkpoint(tmp_path) == path
        write_step(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [path]


def test_the_marker_is_written_after_everything_else(tmp_path):
    path = tmp_path / "step_000001"
    with atomic_folder(path) as temporary:
        (temporary / "state").mkdir()
        (temporary / "state" / "rank_0.pt").write_text("x")
        assert not is_complete(temporary) and not path.exists()
    assert is_complete(path) and (path / "state" / "rank_0.pt").read_text() == "x"


def test_a_folder_whose_writer_fails_never_appears(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "step_000001"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_several_writers_fill_one_folder(tmp_path):
    path = tmp_path / "step_000003"
    temporary = begin_folder(path)
    (temporary / "stale").write_text("from an interrupted attempt")
    temporary = begin_folder(path)
    for rank in range(2):
        (temporary / f"rank_{rank}").write_text("x")
    finish_folder(path)
    assert sorted(file.name for file in path.iterdir()) == [MARKER, "rank_0", "rank_1"]


def test_latest_is_a_link_to_the_folder_that_was_named(tmp_path):
    for step in (9, 10):
        point_latest(write_step(tmp_path, step))
        assert (tmp_path / "latest" / "vision.json").read_text() == str(step)
    assert latest_checkpoint(tmp_path) == tmp_path / "step_000010"
    point_latest(tmp_path / "step_000009")
    assert latest_checkpoint(tmp_path) == tmp_path / "step_000009"


def test_latest_is_found_from_the_runs_folder(tmp_path):
    point_latest(write_step(tmp_path / "checkpoint", 5))
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint" / "step_000005"


def test_a_step_without_its_marker_is_ignored(tmp_path):
    write_step(tmp_path, 5)
    point_latest(write_step(tmp_path, 7, complete=False))
    assert latest_checkpoint(tmp_path) == tmp_path / "step_000005"
    (tmp_path / "step_000005" / MARKER).unlink()
    assert latest_checkpoint(tmp_path) is None


def test_without_links_latest_is_a_text_file(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    write_step(tmp_path, 8)
    point_latest(write_step(tmp_path, 4))
    assert (tmp_path / "latest").read_text() == "step_000004\n"
    assert latest_checkpoint(tmp_path) == tmp_path / "step_000004"
    (tmp_path / "latest").write_text("")
    assert latest_checkpoint(tmp_path) == tmp_path / "step_000008"


def test_step_numbers_are_read_from_names(tmp_path):
    assert step_folder(tmp_path, 120).name == "step_000120"
    assert step_of(tmp_path / "step_1234567") == 1_234_567
    assert step_of(tmp_path / "step_last") is None
    assert latest_checkpoint(tmp_path / "nothing") is None


def test_files_may_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "tensors") as temporary:
            save_file({"a": torch.zeros(1)}, temporary)
        write_text(tmp_path / "text", "words")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("tensors", "text")] == [0o640, 0o640]
