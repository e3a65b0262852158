"""What goes wrong on a long run, done to real processes."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from safetensors.torch import load_file

from helpers.warm_start import WarmStart
from helpers.workspace import TINY_VISION, Workspace, log
from medcap.checkpoints.atomic import is_complete, latest_checkpoint

FAULTY = ("projector._component_=helpers.faulty_components.faulty_mlp", "dataset.packed=false", "batch_size=2")
SLOW = (*FAULTY, "projector.delay=0.05")


@pytest.fixture(scope="module")
def server():
    with WarmStart() as server:
        yield server


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def train(server, workspace, output, *overrides, processes=1):
    return server.train(workspace, output, "num_workers=0", *overrides, processes=processes)


def wait_for_step(run, output, step):
    """Until the log has a step."""
    while not (output / "log" / "metrics.jsonl").is_file() or len(log(output)) < step:
        assert run.alive(), run.printed()
        time.sleep(0.01)


def files_of(checkpoint):
    return {path.name: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}


def said(run):
    """The lines that the processes ended with."""
    printed = [line for rank in range(len(run.pids)) for line in run.printed(rank).splitlines()]
    return [line for line in printed if line.startswith("medcap: ")]


@pytest.mark.parametrize(
    ("number", "processes", "ranks"),
    [(signal.SIGTERM, 1, [0]), (signal.SIGINT, 1, [0]), (signal.SIGTERM, 2, [0, 1]), (signal.SIGTERM, 2, [1])],
)
def test_a_signal_saves_and_leaves_and_the_run_goes_on_as_if_nothing_had_been(
    workspace, server, number, processes, ranks
):
    overrides = (*SLOW, "epochs=3", f"validation_source={workspace.data}")
    quiet = train(server, workspace, "quiet", *overrides, processes=processes)
    assert quiet.wait() == [0] * processes
    run = train(server, workspace, "out", *overrides, processes=processes)
    wait_for_step(run, workspace.folder / "out", 3)
    run.kill(*ranks, number=number)
    run.kill(*ranks, number=number)  # as torchrun, which passes on what the cluster sends to everyone
    assert run.wait() == [128 + number] * processes
    assert sum(signal.Signals(number).name in run.printed(rank) for rank in range(processes)) <= 1
    stopped = latest_checkpoint(workspace.folder / "out")
    step = len(log(workspace.folder / "out"))
    assert stopped.name == f"step_{step:06d}"
    assert 3 <= step < len(log(workspace.folder / "quiet"))
    again = train(server, workspace, "out", *overrides, processes=processes)
    assert again.wait() == [0] * processes
    assert f"resuming from {stopped}" in again.printed()
    ends = [latest_checkpoint(workspace.folder / output) for output in ("quiet", "out")]
    assert files_of(ends[0]) == files_of(ends[1])
    rows = [
        (workspace.folder / output / "log" / "metrics.jsonl").read_text().splitlines() for output in ("quiet", "out")
    ]
    keys = ("step", "loss", "validation_loss")
    compared = [[{key: json.loads(line).get(key) for key in keys} for line in lines] for lines in rows]
    assert compared[0] == compared[1]


def test_signals_reach_the_workers_too_and_do_no_harm(workspace, server):
    run = server.train(workspace, "out", *SLOW, "epochs=3", "num_workers=2")
    wait_for_step(run, workspace.folder / "out", 2)
    os.killpg(run.pids[0], signal.SIGINT)
    assert run.wait() == [130]
    assert "Traceback" not in run.printed()
    assert is_complete(latest_checkpoint(workspace.folder / "out"))


def start_torchrun(workspace, *overrides):
    command = [sys.executable, "-m", "torchtune._cli.tune", "run", "--nproc_per_node", "2"]
    command += ["medcap/recipes/full_finetune_distributed", "--config", "medcap/tiny/distributed"]
    command += [*workspace.model_overrides(), f"output_dir={workspace.folder}/out", f"vision={TINY_VISION}"]
    command += [f"dataset.source={workspace.data}", "dataset.max_seq_len=96", "num_workers=1", "epochs=500", *SLOW]
    environment = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(__file__))}
    log_file = (workspace.folder / "torchrun.txt").open("w")
    process = subprocess.Popen(
        [*command, *overrides], stdout=log_file, stderr=log_file, cwd=workspace.folder, env=environment
    )
    metrics = workspace.folder / "out" / "log" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not metrics.is_file() or len(log(workspace.folder / "out")) < 3:
        assert process.poll() is None and time.monotonic() < deadline, (workspace.folder / "torchrun.txt").read_text()
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_save_when_torchrun_is_asked_to_stop_or_is_gone(workspace, number):
    process = start_torchrun(workspace)
    process.send_signal(number)
    assert process.wait(timeout=40) != 0
    deadline = time.monotonic() + 20
    folder = workspace.folder / "out" / "checkpoint"
    while (
        latest_checkpoint(folder) is None
        or latest_checkpoint(folder).name != f"step_{len(log(workspace.folder / 'out')):06d}"
    ):
        assert time.monotonic() < deadline, (workspace.folder / "torchrun.txt").read_text()
        time.sleep(0.1)
    # Its own traceback is torchrun's way; the recipe adds none.
    assert "full_finetune_distributed.py" not in (workspace.folder / "torchrun.txt").read_text()


def test_torchruns_table_ends_with_the_reason(workspace):
    process = start_torchrun(workspace, "projector.out_of_memory_call=6", "projector.rank=1")
    assert process.wait(timeout=60) != 0
    table = (workspace.folder / "torchrun.txt").read_text().partition("Root Cause")[2]
    assert "traceback : medcap: the GPU's memory is full" in table
    assert "enable_activation_checkpointing=true" in table


@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_with_nan_is_skipped_by_all_and_its_records_are_named(workspace, server, processes):
    overrides = (*FAULTY, "epochs=1", "shuffle=false", f"projector.rank={processes - 1}", "projector.nan_calls=[3]")
    run = train(server, workspace, "out", *overrides, processes=processes)
    assert run.wait() == [0] * processes, run.printed()
    (line,) = [line for line in run.printed().splitlines() if "is not finite" in line]
    # Two samples a process and step: the third step of one process, or the second process's part of it.
    first = 4 if processes == 1 else 10
    names = ", ".join(f"{workspace.data}, row {index}" for index in (first, first + 1))
    assert line == f"step 3 skipped: loss or gradient is not finite; its records: {names}"
    rows = log(workspace.folder / "out")
    assert rows[2]["loss"] is None
    # The schedule waits for the step that was skipped.
    assert rows[3]["lr"] == rows[2]["lr"] > rows[1]["lr"]
    assert all(row["loss"] is not None for row in rows if row["step"] != 3)
    for name, tensor in load_file(latest_checkpoint(workspace.folder / "out") / "vision.safetensors").items():
        assert tensor.isfinite().all(), name


@pytest.mark.parametrize("processes", [1, 2])
def test_too_many_bad_steps_in_a_row_end_the_run(workspace, server, processes):
    overrides = (*FAULTY, "epochs=5", "projector.nan_calls=[2,4,5,6]", "max_bad_steps=3")
    run = train(server, workspace, "out", *overrides, processes=processes)
    run.wait_as_torchrun()
    (line,) = said(run)
    assert "3 steps in a row had a loss or gradient that is not finite" in line
    # On two processes the first has no part in step 4, the last of an epoch.
    assert len(log(workspace.folder / "out")) == 4 + processes


def damaged(workspace, share, count=200):
    """200 rows with an image each, of which a share is damaged; gives their names."""
    folder = workspace.folder / "many"
    folder.mkdir()
    rows = []
    for index in range(count):
        Image.new("RGB", (16, 16), (index, 0, 255 - index)).save(folder / f"{index}.png")
        turns = [{"from": "human", "value": f"<image>\nImage {index}?"}, {"from": "gpt", "value": "Yes"}]
        rows.append({"image": f"many/{index}.png", "conversations": turns})
    workspace.data = workspace.write_data("many.json", rows)
    bad = range(0, count, round(1 / share))
    for index in bad:
        file = folder / f"{index}.png"
        file.write_bytes(file.read_bytes()[: 20 + index % 30])
    return [f"{workspace.data}, row {index}" for index in bad]


def test_three_percent_of_damaged_images_are_skipped_alike_by_every_run(workspace, server):
    names = damaged(workspace, 0.03)
    overrides = ("max_bad_fraction=0.05", "check_images=0", "epochs=2", "batch_size=4")
    found = []
    for output, processes in (("one", 1), ("again", 1), ("two", 2)):
        run = server.train(workspace, output, *overrides, "num_workers=1", processes=processes)
        assert run.wait() == [0] * processes, run.printed()
        lines = (workspace.folder / output / "log" / "bad_rows.jsonl").read_text().splitlines()
        found.append([json.loads(line)["name"] for line in lines])
        assert run.printed().count("skipped ") == len(names)
        assert json.loads((workspace.folder / output / "summary.json").read_text())["bad_rows"] == len(names)
    assert sorted(found[0]) == sorted(found[2]) == sorted(names)
    assert found[0] == found[1]
    files = [files_of(latest_checkpoint(workspace.folder / output)) for output in ("one", "again")]
    assert files[0] == files[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_thirty_percent_of_damaged_images_end_the_run(workspace, server, processes):
    damaged(workspace, 0.33)
    overrides = ("max_bad_fraction=0.05", "check_images=0", "batch_size=4", "dataset.packed=false")
    run = train(server, workspace, "out", *overrides, processes=processes)
    run.wait_as_torchrun()
    (line,) = said(run)
    assert "of 200 rows turned out to be damaged, more than max_bad_fraction=0.05 allows; the last: " in line


def test_a_full_disk_is_told_while_training_goes_on_and_at_the_end(workspace, server):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond this, as on a full disk; a checkpoint's tensors are larger, the logs are not.
    overrides = ("epochs=4", "save_every_n_steps=1", "batch_size=1")
    run = server.train(workspace, "out", *overrides, "num_workers=0", file_limit=40_000)
    assert run.wait() == [2], run.printed()
    assert limit == resource.getrlimit(resource.RLIMIT_FSIZE)
    printed = run.printed()
    failed = [line for line in printed.splitlines() if "the checkpoint could not be written" in line]
    assert len(failed) >= 3
    assert "File too large" in failed[0]
    assert "training goes on, the next save tries again" in failed[0]
    (line,) = said(run)
    assert "the last checkpoint, step" in line
    assert len(log(workspace.folder / "out")) > 3
    assert list((workspace.folder / "out" / "checkpoint").glob("*step*")) == []


def test_a_disk_that_is_full_for_a_while_costs_only_that_save(workspace, server):
    folder = workspace.folder / "out" / "checkpoint"
    run = train(server, workspace, "out", *SLOW, "epochs=6", "save_every_n_steps=2")
    wait_for_step(run, workspace.folder / "out", 3)
    # A file in the way of the folder that is written next.
    for step in range(1, 100):
        blocked = folder / f".step_{step:06d}.partial"
        if not (folder / f"step_{step:06d}").exists() and step > 6:
            blocked.write_text("in the way")
            break
    wait_for_step(run, workspace.folder / "out", 12)
    assert run.wait() == [0], run.printed()
    assert is_complete(latest_checkpoint(workspace.folder / "out"))


@pytest.mark.parametrize("key", ["output_dir", "checkpointer.output_dir"])
def test_a_folder_that_cannot_be_written_is_told_before_weights_are_read(workspace, server, key):
    (workspace.folder / "file").write_text("in the way")
    shutil.rmtree(workspace.folder / "llm")
    run = train(server, workspace, "out", f"{key}={workspace.folder}/file/inside")
    assert run.wait() == [2]
    (line,) = said(run)
    assert "cannot be a folder: a file is in the way" in line


def test_a_worker_that_is_killed_ends_the_run_with_a_line(workspace, server):
    run = server.train(workspace, "out", *SLOW, "epochs=50", "num_workers=1")
    wait_for_step(run, workspace.folder / "out", 2)
    children = subprocess.run(["pgrep", "-P", str(run.pids[0])], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert run.wait() == [1]
    (line,) = said(run)
    assert "a data-loader worker died" in line
    assert "Traceback" not in run.printed()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_runs_out_of_memory_is_told_once_and_all_end(workspace, server, rank):
    overrides = (*FAULTY, "epochs=5", "projector.out_of_memory_call=4", f"projector.rank={rank}")
    run = train(server, workspace, "out", *overrides, processes=2)
    assert set(run.wait(timeout=30)) == {1}
    (line,) = said(run)
    assert "the GPU's memory is full (tried to allocate 2.00 GiB; it has 4.00 GiB): lower batch_size" in line
    assert "Traceback" not in run.printed(0) + run.printed(1)


def test_a_bug_keeps_its_traceback(workspace, server):
    run = train(server, workspace, "out", *FAULTY, "projector.bug_call=2", "projector.rank=1", processes=2)
    assert 0 not in run.wait(timeout=30)
    assert "ArithmeticError: an unexpected thing" in run.printed(1)
    assert said(run) == []


def test_a_process_that_dies_ends_the_others_with_one_line(workspace, server):
    run = train(server, workspace, "out", *SLOW, "epochs=50", processes=2)
    wait_for_step(run, workspace.folder / "out", 2)
    run.kill(1)
    assert run.wait(timeout=30) == [1, -signal.SIGKILL]
    (line,) = said(run)
    assert "another process of this run ended or hung" in line
    assert "resume_from_checkpoint=latest" in line


def test_a_process_that_hangs_ends_the_run_after_the_timeout(workspace, server):
    run = train(server, workspace, "out", *SLOW, "epochs=50", "timeout_minutes=0.1", processes=2)
    wait_for_step(run, workspace.folder / "out", 2)
    run.kill(1, number=signal.SIGSTOP)
    deadline = time.monotonic() + 30
    while not said(run):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run.kill(1)
    assert run.wait(timeout=30) == [1, -signal.SIGKILL]
    assert "another process of this run ended or hung" in said(run)[0]
