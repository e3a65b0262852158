import errno
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from helpers.waiting import PATIENCE, wait_for
from medcap.errors import UserError
from medcap.training.reliability.checkpoint_writer import BackgroundWriter, describe_failure

FOLDER = Path("/results/step_000120")


def failing(error):
    def write():
        raise error

    return write


def test_a_write_continues_after_its_caller_and_is_reported():
    writer, may_end = BackgroundWriter(), threading.Event()
    writer.start(120, FOLDER, lambda: [] if may_end.wait(PATIENCE) else ["never"])
    assert writer.messages() == []
    may_end.set()
    writer.finish()
    (line,) = writer.messages()
    assert re.fullmatch(r"saved /results/step_000120 \(\d+\.\d s in the background\)", line)
    assert writer.messages() == []


def test_a_second_write_waits_for_the_first():
    writer, order = BackgroundWriter(), []

    def slow():
        time.sleep(0.1)
        order.append("slow")
        return []

    writer.start(1, FOLDER, slow)
    writer.start(2, FOLDER, lambda: order.append("fast") or ["an old one stays"])
    writer.finish()
    assert order == ["slow", "fast"]
    assert [line.split(" (")[0] for line in writer.messages()] == ["saved /results/step_000120"] * 2 + [
        "an old one stays"
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), "File too large"),
        (RuntimeError("the writer failed\nsecond line"), "the writer failed"),
    ],
)
def test_a_failure_is_a_line_and_the_next_success_forgets_it(error, reason):
    writer = BackgroundWriter()
    writer.start(120, FOLDER, failing(error))
    writer.wait()
    assert writer.messages() == [
        f"step 120: the checkpoint could not be written ({reason}: /results/step_000120); training goes on, the next"
        " save tries again"
    ]
    with pytest.raises(
        UserError, match=rf"last checkpoint, step 120, could not be written \({reason}: /results"
    ) as caught:
        writer.finish()
    assert "\n" not in str(caught.value)
    writer.start(130, FOLDER, lambda: [])
    writer.finish()


def test_a_mistake_in_the_code_is_raised_where_the_training_is():
    writer = BackgroundWriter()
    writer.start(1, FOLDER, failing(KeyError("a bug")))
    with pytest.raises(KeyError, match="a bug"):
        writer.start(2, FOLDER, lambda: [])
    writer.start(3, FOLDER, lambda: [])
    writer.finish()


def test_torchs_unclear_message_on_a_full_disk_is_made_clear(monkeypatch, tmp_path):
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    assert describe_failure(error, tmp_path).startswith("[enforce fail")
    monkeypatch.setattr("medcap.training.reliability.checkpoint_writer._free_bytes", lambda folder: 4096)
    assert describe_failure(error, tmp_path) == f"No space left on device: {tmp_path}"


def test_writing_tensors_does_not_stop_other_threads(tmp_path):
    tensors = {"x": torch.zeros(32 * 2**20)}  # 128 MiB
    writer = BackgroundWriter()

    def another_thread_works_meanwhile():
        writer.start(1, tmp_path, lambda: save_file(tensors, tmp_path / "x.safetensors") or [])
        ticks = 0
        while writer.messages() == []:
            time.sleep(0.001)
            ticks += 1
        writer.finish()
        return ticks >= 10

    # Other programs may take the processors for the time of one write.
    wait_for(another_thread_works_meanwhile)


@pytest.mark.processes
@pytest.mark.parametrize("end", ["raise SystemExit(3)", "raise ValueError"])
def test_a_process_that_ends_waits_for_the_write(tmp_path, end):
    file = tmp_path / "written"
    code = (
        "import pathlib, time\nfrom medcap.training.reliability.checkpoint_writer import BackgroundWriter\n"
        f"file = pathlib.Path({str(file)!r})\n"
        "def write():\n    time.sleep(0.3)\n    file.write_text('whole')\n    return []\n"
        f"BackgroundWriter().start(1, file, write)\n{end}\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode in (1, 3)
    assert file.read_text() == "whole"
