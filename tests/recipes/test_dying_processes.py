"""Workers and processes that die, hang or run out of something: the run ends with one line."""

import os
import signal
from pathlib import Path

import pytest

from helpers.faulty_runs import FAULTY, SLOW, lines_of, said, train, wait_for_step, wait_until, workspace_in
from helpers.waiting import wait_for
from helpers.workspace import log


@pytest.fixture
def workspace(tmp_path):
    return workspace_in(tmp_path)


def test_a_worker_that_is_killed_ends_the_run_with_a_line(workspace, server):
    run = server.train(workspace, "out", *SLOW, "epochs=5000", "num_workers=1")
    wait_for_step(run, workspace.folder / "out", 2)
    # Between two epochs there is none.
    children = wait_for(lambda: Path(f"/proc/{run.pids[0]}/task/{run.pids[0]}/children").read_text().split())
    os.kill(int(children[-1]), signal.SIGKILL)
    assert run.wait() == [1]
    (line,) = said(run)
    assert "a data-loader worker died" in line
    assert "Traceback" not in run.printed()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_that_cannot_read_ends_the_run_with_a_line(workspace, server, processes):
    overrides = (*FAULTY, "dataset._component_=helpers.faulty_components.unreadable_dataset", "check_images=0")
    run = server.train(workspace, "out", *overrides, "num_workers=1", processes=processes)
    assert run.wait() == [1] * processes
    assert said(run) == [
        "medcap: a data-loader worker could not read its data: [Errno 5] Input/output error: '/data/train.jsonl'; fix"
        " that and go on from the last checkpoint"
    ]
    assert "Traceback" not in "".join(lines_of(run))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_runs_out_of_memory_is_reported_once_and_all_end(workspace, server, rank):
    overrides = (*FAULTY, "epochs=5", "projector.out_of_memory_call=4", f"projector.rank={rank}")
    run = train(server, workspace, "out", *overrides, processes=2)
    assert run.wait() == [1, 1]
    (line,) = said(run)
    assert line.startswith("medcap: the GPU's memory is full (tried to allocate 2.00 GiB; it has 4.00 GiB): lower")
    assert line in run.printed(rank)
    assert "Traceback" not in "".join(lines_of(run))


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_that_is_not_foreseen_is_reported_once_by_the_process_that_meets_it(workspace, server, rank):
    run = train(server, workspace, "out", *FAULTY, "projector.bug_call=2", f"projector.rank={rank}", processes=2)
    assert run.wait() == [1, 1]
    (line,) = said(run)
    assert line in run.printed(rank)
    assert "ended in an error that was not foreseen: ArithmeticError: an unexpected thing (" in line
    assert not any("Traceback" in run.printed(number) for number in (0, 1))


@pytest.mark.parametrize(("number", "rank"), [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGSTOP, 1)])
def test_a_process_that_dies_or_hangs_ends_the_others_with_one_line(workspace, server, number, rank):
    # Only one that hangs is noticed by the time that it takes. A busy machine may need more than that to begin.
    for minutes in (0.1, 0.4, 2) if number == signal.SIGSTOP else (2,):
        options = (*FAULTY, "epochs=5000", f"timeout_minutes={minutes}")
        run = train(server, workspace, f"out_{minutes}", *options, processes=2)
        metrics = workspace.folder / f"out_{minutes}" / "log" / "metrics.jsonl"
        wait_for(lambda file=metrics, run=run: not run.alive() or (file.is_file() and len(log(file.parents[1])) >= 2))
        if run.alive():
            break
    run.kill(rank, number=number)
    wait_until(lambda: said(run), run)
    run.kill(rank)
    statuses = run.wait()
    assert (statuses[rank], statuses[1 - rank]) == (-signal.SIGKILL, 1)
    (line,) = said(run)
    assert "another process of this run ended or hung" in line
    assert "resume_from_checkpoint=latest" in line


@pytest.mark.parametrize("open_files", [20, 26, 32])
def test_too_few_open_files_end_the_run_in_one_line(workspace, server, open_files):
    overrides = ("num_workers=3", "dataset.packed=false", "batch_size=1", "epochs=3", "check_images=0")
    run = server.train(workspace, "out", *overrides, open_files=open_files)
    assert run.wait() == [1], run.printed()
    (line,) = said(run)
    assert "too many files are open (" in line or "open files (ulimit -n)" in line
    assert "Traceback" not in run.printed()
