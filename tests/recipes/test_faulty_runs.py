"""What goes wrong on a long run, done to real processes."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from helpers.faulty_runs import (
    FAULTY,
    SLOW,
    UNLIMITED,
    Holds,
    files_of,
    lines_of,
    logged,
    said,
    stoppable,
    train,
    workspace_in,
)
from helpers.waiting import PATIENCE, wait_for
from helpers.workspace import TINY_VISION, log
from medcap.checkpoints.atomic import is_complete, latest_checkpoint
from medcap.checkpoints.tensor_tree import load_tree


@pytest.fixture
def workspace(tmp_path):
    return workspace_in(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """A workspace, and in it the runs of one and of two processes that nothing happened to."""
    workspace = workspace_in(tmp_path_factory.mktemp("undisturbed"))
    for processes in (1, 2):
        run = train(server, workspace, f"quiet_{processes}", *stoppable(workspace), processes=processes)
        assert run.wait() == [0] * processes, run.printed()
    return workspace


# A signal in the pass of step 4 is answered at the end of that step; one in the validation after an epoch ends that.
@pytest.mark.parametrize(
    ("number", "processes", "fault", "rank", "step"),
    [
        (signal.SIGTERM, 1, "signal_call=4", "0", 4),
        (signal.SIGINT, 1, "signal_call=4", "0", 4),
        (signal.SIGTERM, 2, "signal_call=4", "null", 4),
        (signal.SIGTERM, 2, "signal_call=4", "1", 4),
        (signal.SIGTERM, 1, "signal_evaluation=2", "0", 6),
        (signal.SIGTERM, 2, "signal_evaluation=2", "1", 3),
    ],
)
def test_a_signal_saves_a_checkpoint_and_the_run_continues_as_if_nothing_had_been(
    undisturbed, server, number, processes, fault, rank, step
):
    output = undisturbed.folder / f"{number}_{processes}_{fault.replace('=', '_')}_{rank}"
    disturbed = (f"projector.{fault}", f"projector.rank={rank}", f"projector.signal_number={int(number)}")
    # The projector sends each signal twice, as torchrun and Slurm together do: one request, not two.
    run = train(server, undisturbed, output.name, *stoppable(undisturbed), *disturbed, processes=processes)
    assert run.wait() == [128 + number] * processes, run.printed()
    assert [line.partition(":")[0].partition(" ")[0] for line in lines_of(run) if "saving a checkpoint" in line] == [
        number.name
    ]
    assert said(run) == []
    assert os.readlink(output / "checkpoint" / "latest") == f"step_{step:06d}"
    assert is_complete(output / "checkpoint" / f"step_{step:06d}")
    assert len(log(output)) == step
    again = train(server, undisturbed, output.name, *stoppable(undisturbed), processes=processes)
    assert again.wait() == [0] * processes, again.printed()
    assert f"resuming from {output}/checkpoint/step_{step:06d}, step {step}" in again.printed()
    quiet = undisturbed.folder / f"quiet_{processes}"
    assert files_of(latest_checkpoint(output)) == files_of(latest_checkpoint(quiet))
    assert logged(output) == logged(quiet)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_workers_too_does_no_harm(undisturbed, server, number):
    output = undisturbed.folder / f"group_{number}"
    overrides = (*stoppable(undisturbed), "num_workers=2")
    holds = Holds(undisturbed.folder / f"holds_{number}", 3)
    run = server.train(undisturbed, output.name, *overrides, *holds.overrides)
    holds.reached(run, 3)
    os.killpg(run.pids[0], number)
    holds.go_on(3)
    assert run.wait() == [128 + number], run.printed()
    assert "Traceback" not in run.printed()
    again = server.train(undisturbed, output.name, *overrides)
    assert again.wait() == [0]
    files = [files_of(latest_checkpoint(folder)) for folder in (output, undisturbed.folder / "quiet_1")]
    assert files[0] == files[1]


def start_torchrun(workspace, *overrides):
    command = [sys.executable, "-m", "helpers.forking_torchrun", "run", "--nproc_per_node", "2", "--master_port", "0"]
    command += ["medcap/recipes/full_finetune_distributed", "--config", "medcap/tiny/distributed"]
    command += [*workspace.model_overrides(), f"output_dir={workspace.folder}/out", f"vision={TINY_VISION}"]
    command += [f"dataset.source={workspace.data}", "dataset.max_seq_len=96", "num_workers=1", "epochs=5000", *SLOW]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with (workspace.folder / "torchrun.txt").open("w") as printed:
        return subprocess.Popen(
            [*command, *overrides], stdout=printed, stderr=printed, cwd=workspace.folder, env=environment
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_save_when_torchrun_is_asked_to_stop_or_has_ended(workspace, number):
    process = start_torchrun(workspace)
    printed, output = workspace.folder / "torchrun.txt", workspace.folder / "out"
    try:
        metrics = output / "log" / "metrics.jsonl"
        wait_for(lambda: process.poll() is not None or (metrics.is_file() and len(log(output)) >= 2))
        assert process.poll() is None, printed.read_text()
        ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(ranks) == 2
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE) != 0
    finally:
        process.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks))
    assert os.readlink(output / "checkpoint" / "latest") == f"step_{len(log(output)):06d}"
    assert printed.read_text().count("saving a checkpoint at the end of this step") == 1
    # Its own traceback is torchrun's way; the recipe adds none.
    assert "full_finetune_distributed.py" not in printed.read_text()


def test_torchruns_table_ends_with_the_reason(workspace):
    process = start_torchrun(workspace, "projector.out_of_memory_call=3", "projector.rank=1")
    try:
        assert process.wait(timeout=PATIENCE) != 0
    finally:
        process.kill()
    printed = (workspace.folder / "torchrun.txt").read_text()
    assert "medcap: the GPU's memory is full" in printed.partition("Root Cause")[2]
    assert len([line for line in printed.splitlines() if line.startswith("medcap: ")]) == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_with_nan_is_skipped_by_all_and_its_records_are_named(workspace, server, processes):
    overrides = (*FAULTY, "epochs=1", "shuffle=false", f"projector.rank={processes - 1}", "projector.nan_calls=[2]")
    run = train(server, workspace, "out", *overrides, processes=processes)
    assert run.wait() == [0] * processes, run.printed()
    # Two samples a process and step: the second step of one process, or the second process's part of it.
    first = 2 if processes == 1 else 6
    names = ", ".join(f"{workspace.data}, row {index}" for index in (first, first + 1))
    assert [line for line in lines_of(run) if "is not finite" in line] == [
        f"step 2 skipped: loss or gradient is not finite; its records: {names}"
    ]
    rows = log(workspace.folder / "out")
    assert [row["step"] for row in rows if row["loss"] is None] == [2]
    # The schedule waits for the step that was skipped.
    assert rows[2]["lr"] == rows[1]["lr"] > rows[0]["lr"]
    checkpoint = latest_checkpoint(workspace.folder / "out")
    assert all(tensor.isfinite().all() for tensor in load_file(checkpoint / "vision.safetensors").values())
    optimizer = load_tree(checkpoint / "state", "state")["optimizer"]
    assert {int(state["step"]) for state in optimizer["state"].values()} == {len(rows) - 1}


@pytest.mark.parametrize("processes", [1, 2])
def test_too_many_bad_steps_in_a_row_end_the_run(workspace, server, processes):
    overrides = (*FAULTY, "epochs=5", "projector.nan_calls=[2,4,5,6]", "max_bad_steps=3")
    run = train(server, workspace, "out", *overrides, processes=processes)
    assert run.wait() == [2] * processes
    (line,) = said(run)
    assert "3 steps in a row had a loss or gradient that is not finite" in line
    assert "the last: step 6, its records: " in line
    assert len(log(workspace.folder / "out")) == 5


def damaged(workspace, share, count=200):
    """Rows with an image each, of which a share is damaged; gives their names."""
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


def test_three_percent_of_damaged_images_are_skipped_equally_by_every_run(workspace, server):
    names = damaged(workspace, 0.03)
    overrides = ("max_bad_fraction=0.05", "check_images=0", "epochs=2", "batch_size=4", "save_every_n_steps=1")
    overrides += FAULTY[:1]
    holds = Holds(workspace.folder / "holds", 5)
    found, files = {}, {}
    for output, processes in (("one", 1), ("killed", 1), ("two", 2)):
        disturbed = holds.overrides if output == "killed" else ()
        run = train(server, workspace, output, *overrides, *disturbed, processes=processes)
        if output == "killed":
            holds.reached(run, 5)
            # The fourth checkpoint is perhaps still being written.
            assert latest_checkpoint(workspace.folder / output).name >= "step_000003"
            run.kill()
            assert run.wait() == [-signal.SIGKILL]
            run = train(server, workspace, output, *overrides)
        assert run.wait() == [0] * processes, run.printed()
        lines = (workspace.folder / output / "log" / "bad_rows.jsonl").read_text().splitlines()
        found[output] = [json.loads(line)["name"] for line in lines]
        files[output] = files_of(latest_checkpoint(workspace.folder / output))
        assert output == "killed" or run.printed().count("skipped ") == len(names)
        assert json.loads((workspace.folder / output / "summary.json").read_text())["bad_rows"] == len(names)
    assert sorted(found["one"]) == sorted(found["two"]) == sorted(names)
    assert found["one"] == found["killed"]
    assert files["one"] == files["killed"]


@pytest.mark.parametrize("processes", [1, 2])
def test_thirty_percent_of_damaged_images_end_the_run(workspace, server, processes):
    damaged(workspace, 0.3)
    overrides = ("max_bad_fraction=0.05", "check_images=0", "batch_size=4", "dataset.packed=false")
    run = train(server, workspace, "out", *overrides, processes=processes)
    assert run.wait() == [2] * processes
    (line,) = said(run)
    assert " of 200 rows turned out to be damaged, more than max_bad_fraction=0.05 allows; the last: " in line


def test_a_full_disk_is_reported_while_training_continues_and_at_the_end(workspace, server):
    # No file may grow beyond this, as on a full disk; a checkpoint's tensors are larger, the logs are not.
    overrides = (*FAULTY, "epochs=1", "save_every_n_steps=1")
    run = train(server, workspace, "out", *overrides, file_limit=40_000)
    assert run.wait() == [2], run.printed()
    folder = workspace.folder / "out" / "checkpoint"
    assert [line for line in lines_of(run) if "training goes on" in line] == [
        f"step {step}: the checkpoint could not be written (File too large: {folder}/step_{step:06d}); training goes"
        " on, the next save tries again"
        for step in range(1, 6)
    ]
    (line,) = said(run)
    assert line.startswith("medcap: the last checkpoint, step 6, could not be written (File too large: ")
    assert len(log(workspace.folder / "out")) == 6
    assert list(folder.glob("*step*")) == []


def test_a_disk_that_is_full_for_a_while_costs_only_what_was_saved_then(workspace, server):
    output = workspace.folder / "out"
    holds = Holds(workspace.folder / "holds", 4, 8, 12)
    run = train(server, workspace, "out", *FAULTY, *holds.overrides, "epochs=3", "save_every_n_steps=1")
    holds.reached(run, 4)
    resource.prlimit(run.pids[0], resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
    holds.go_on(4)
    holds.reached(run, 8)
    assert "could not be written (File too large" in run.printed()
    # Now not even a line can be added to any file, what the program prints included.
    resource.prlimit(run.pids[0], resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    holds.go_on(8)
    holds.reached(run, 12)
    resource.prlimit(run.pids[0], resource.RLIMIT_FSIZE, UNLIMITED)
    holds.go_on(12)
    assert run.wait() == [0], run.printed()
    assert latest_checkpoint(output).name == "step_000018"
    steps = [row["step"] for row in log(output)]
    assert steps == [*range(1, 8), *range(12, 19)]
    assert "is written again; 4 rows are missing in it" in run.printed()


def test_a_folder_that_becomes_unwritable_costs_only_what_was_saved_then(workspace, server):
    output = workspace.folder / "out"
    holds = Holds(workspace.folder / "holds", 4, 8)
    run = train(server, workspace, "out", *FAULTY, *holds.overrides, "epochs=2", "save_every_n_steps=1")
    holds.reached(run, 4)
    (output / "checkpoint").rename(output / "moved")
    (output / "checkpoint").write_text("in the way")
    holds.go_on(4)
    holds.reached(run, 8)
    assert "could not be written (Not a directory: " in run.printed()
    (output / "checkpoint").unlink()
    (output / "moved").rename(output / "checkpoint")
    holds.go_on(8)
    assert run.wait() == [0], run.printed()
    assert latest_checkpoint(output).name == "step_000012"
    assert len(log(output)) == 12


@pytest.mark.parametrize(
    ("key", "processes"), [("output_dir", 1), ("checkpointer.output_dir", 1), ("checkpointer.output_dir", 2)]
)
def test_a_folder_that_cannot_be_made_is_reported_before_weights_are_read(workspace, server, key, processes):
    (workspace.folder / "file").write_text("in the way")
    shutil.rmtree(workspace.folder / "llm")
    run = train(server, workspace, "out", f"{key}={workspace.folder}/file/inside", processes=processes)
    # The second process only sees that the first has ended.
    assert run.wait() == [2, 1][:processes]
    assert said(run) == [
        f"medcap: {key}={workspace.folder}/file/inside cannot be a folder: a file is in the way; choose another"
    ]


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="has no folder that nobody may write to")
def test_a_folder_that_no_one_may_write_to_is_reported_before_weights_are_read(workspace, server):
    shutil.rmtree(workspace.folder / "llm")
    run = train(server, workspace, "out", "output_dir=/sys/kernel/medcap")
    assert run.wait() == [2]
    (line,) = said(run)
    assert line.startswith("medcap: output_dir=/sys/kernel/medcap cannot be written to (")
