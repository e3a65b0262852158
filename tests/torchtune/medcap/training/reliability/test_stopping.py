import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from helpers.waiting import PATIENCE, wait_for
from medcap.training.reliability import stopping
from medcap.training.reliability.stopping import StopRequests

LINE = "{}: saving a checkpoint at the end of this step; a second one stops at once\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_is_remembered_and_said_once(number, status, capfd):
    with StopRequests() as stop:
        assert stop.received is None and stop.exit_status == 0
        signal.raise_signal(number)
        signal.raise_signal(number)  # the same request, passed on by torchrun
        assert stop.received == number and stop.exit_status == status
    assert capfd.readouterr().err == LINE.format(signal.Signals(number).name)
    assert stop.exit_status == status


def test_one_process_of_a_run_is_enough_to_say_it(capfd):
    with StopRequests(announce=False) as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.received == signal.SIGTERM and capfd.readouterr().err == ""


def test_handlers_are_put_back(monkeypatch):
    before = [signal.getsignal(number) for number in stopping.STOP_SIGNALS]
    with pytest.raises(ValueError, match="a bug"), StopRequests():
        assert signal.getsignal(signal.SIGTERM) != before[0]
        raise ValueError("a bug")
    assert [signal.getsignal(number) for number in stopping.STOP_SIGNALS] == before


def test_signals_that_are_ignored_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequests() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.received is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_of_the_main_thread_nothing_is_installed():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run():
        with StopRequests():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def run(code, *arguments):
    """Run code that prints "ready" and whatever else; its standard output stays open."""
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = process.stdout.readline()
    assert line == "ready\n", process.communicate(timeout=PATIENCE)
    return process


WAITING = """
import sys, time
from medcap.training.reliability import stopping
stopping.REPEAT_SECONDS = 0.05
with stopping.StopRequests() as stop:
    print("ready", flush=True)
    while stop.received is None or "--never" in sys.argv:
        time.sleep(0.01)
sys.exit(stop.exit_status)
"""


@pytest.mark.processes
def test_a_program_that_stops_on_request_has_the_signals_status():
    process = run(WAITING)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=PATIENCE)[1] == LINE.format("SIGTERM") and process.returncode == 143


@pytest.mark.processes
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_request_stops_at_once(second):
    process = run(WAITING, "--never")
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == LINE.format("SIGTERM")
    time.sleep(0.1)  # more than REPEAT_SECONDS
    assert process.poll() is None
    process.send_signal(second)
    assert process.communicate(timeout=PATIENCE)[1] == "" and process.returncode == -second


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until_gone(pids):
    wait_for(lambda: not any(map(alive, pids)))


WORKER = """
import os, sys, time, types
from medcap.training.reliability import stopping
stopping.PARENT_CHECK_SECONDS = 0.1
if os.fork():
    if sys.argv[1] == "parent gone":
        sys.stdin.readline()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
else:
    # Its clock goes on by two seconds with each line.
    stopping.time = types.SimpleNamespace(monotonic=lambda: now, sleep=time.sleep)
    now = 0.0
    stopping.ignore_stop_signals(3)
    print("ready", flush=True)
    print(os.getpid(), flush=True)
    while sys.argv[1] == "parent gone":
        time.sleep(1)
    for line in sys.stdin:
        now += 2
"""


def start_worker(kind="parent stays"):
    process = run(WORKER, kind)
    return process, int(process.stdout.readline())


@pytest.mark.processes
def test_a_worker_ignores_the_request_but_not_a_second_one():
    process, worker = start_worker()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        os.kill(worker, number)
    time.sleep(0.3)
    assert process.poll() is None

    def has_ended():
        with contextlib.suppress(BrokenPipeError, ProcessLookupError):
            os.write(process.stdin.fileno(), b"later\n")
            os.kill(worker, signal.SIGTERM)
        return process.poll() is not None

    wait_for(has_ended, pause=0.1)
    assert process.stdout.read() == "143\n" and process.stderr.read() == ""


@pytest.mark.processes
def test_a_worker_ends_when_its_process_has_ended():
    process, worker = start_worker("parent gone")
    process.communicate("end\n", timeout=PATIENCE)  # until the worker's end closes its standard output
    wait_until_gone([worker])


LOADER = """
import os, sys, time, warnings
import torch
from torch.utils.data import DataLoader, Dataset
from medcap.training.reliability.stopping import StopRequests, ignore_stop_signals

warnings.filterwarnings("ignore", "This DataLoader will create")  # on one processor

class Large(Dataset):
    def __len__(self):
        return 200
    def __getitem__(self, place):
        time.sleep(0.01)
        # More than a pipe holds, so that a worker hangs on it when nobody reads.
        return os.getpid(), list(range(place, place + 50000)), torch.ones(1000)

with StopRequests() as stop:
    loader = iter(DataLoader(Large(), batch_size=None, num_workers=2, worker_init_fn=ignore_stop_signals))
    pids = sorted({next(loader)[0] for _ in range(4)})
    print("ready", flush=True)
    print(*pids, flush=True)
    if sys.argv[1] == "stop":
        while stop.received is None:
            time.sleep(0.01)
        sys.stdin.readline()
        print(sum(1 for _ in zip(range(50), loader)), flush=True)  # and leaves in the middle of an epoch
    else:
        time.sleep(60)
sys.exit(stop.exit_status)
"""


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads the states of processes")
def test_workers_continue_while_their_process_saves_and_end_with_it():
    stopped, killed = run(LOADER, "stop"), run(LOADER, "kill")
    workers = {process: [int(pid) for pid in process.stdout.readline().split()] for process in (stopped, killed)}
    assert all(len(pids) == 2 and all(map(alive, pids)) for pids in workers.values())
    killed.kill()
    for pid in (*workers[stopped], stopped.pid):  # as a cluster does it: to every process
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT) if pid != stopped.pid else None
    time.sleep(1.5)  # more than REPEAT_SECONDS: what the loader sends at the end is not a part of the same request
    stopped.stdin.write("leave\n")
    output, errors = stopped.communicate(timeout=PATIENCE)
    assert (output, errors, stopped.returncode) == ("50\n", LINE.format("SIGTERM"), 143)
    assert not any(map(alive, workers[stopped]))
    wait_until_gone(workers[killed])
    killed.communicate()
