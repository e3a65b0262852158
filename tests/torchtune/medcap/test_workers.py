import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.waiting import wait_for
from helpers.work import die_at_some, double
from medcap.errors import UserError
from medcap.workers import batched, ordered_map

pytestmark = pytest.mark.processes


def refuse(item):
    raise UserError(f"item {item} was changed")


def flat(batches):
    return [result for batch in batches for result in batch]


@pytest.mark.parametrize("fork", [False, True])
@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_the_order_of_the_items(processes, fork):
    found = ordered_map(double, batched(range(200, 0, -1), 16), processes, lambda item: -1, fork=fork)
    assert flat(found) == [2 * item for item in range(200, 0, -1)]


@pytest.mark.parametrize("fork", [False, True])
def test_items_that_kill_their_process_fail_alone(fork):
    found = ordered_map(die_at_some, batched(range(70), 16), 2, lambda item: -item - 1, fork=fork)
    assert flat(found) == [-item - 1 if item in (0, 30, 31, 69) else item for item in range(70)]


def test_an_error_reaches_the_caller():
    with pytest.raises(UserError, match="item 5 was changed"):
        flat(ordered_map(refuse, [[5, 6]], 1, lambda item: None, fork=True))


def test_a_crash_may_end_the_whole_work():
    def stop(item):
        raise UserError(f"item {item} killed its process")

    with pytest.raises(UserError, match="item 0 killed its process"):
        flat(ordered_map(die_at_some, [[0, 1]], 1, stop, fork=True))


def test_only_as_many_batches_are_read_ahead_as_keep_the_processes_busy():
    read = []

    def batches():
        for number in range(100):
            read.append(number)
            yield [number]

    results = ordered_map(double, batches(), 1, lambda item: None, fork=True)
    assert next(results) == [0]
    assert len(read) <= 5
    results.close()


def test_no_items_are_not_results():
    assert flat(ordered_map(double, batched([], 4), 2, lambda item: None)) == []


def test_workers_end_with_the_process_that_started_them(tmp_path):
    code = (
        "import os, pathlib, sys, time\nfrom medcap.workers import ordered_map\n"
        "def work(item):\n    pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n    time.sleep(3600)\n"
        "list(ordered_map(work, [[1]], 1, print, fork=True))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pid")])
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    worker = int((tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    wait_for(lambda: not os.path.exists(f"/proc/{worker}") or is_zombie(worker))


def is_zombie(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().split()[2] == "Z"
    return True
