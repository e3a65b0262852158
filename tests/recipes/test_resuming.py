"""A run that continues from a checkpoint is the run that was never stopped, on any number of processes."""

import json
import math
import shutil

import pytest
import torch

from helpers.observed_run import observe
from helpers.workspace import log
from medcap.checkpoints.atomic import MARKER, latest_checkpoint
from medcap.checkpoints.tensor_tree import load_tree

FILES = ("vision.safetensors", "vision.json", "state/state.json", "state/state.safetensors")
SAVING = ("dataset.packed=false", "epochs=2", "save_every_n_steps=1")


def logged(output):
    """What does not depend on time in the log."""
    return [{key: row[key] for key in ("step", "epoch", "loss", "grad_norm", "lr")} for row in log(output)]


def forget(output, step):
    """Make the checkpoints after a step incomplete, as if the run had been killed while it wrote them."""
    for folder in (output / "checkpoint").glob("step_*"):
        if int(folder.name.removeprefix("step_")) > step:
            (folder / MARKER).unlink()


@pytest.mark.parametrize(
    ("optimizer", "overrides"),
    [("torch.optim.AdamW", ["parallelism=shard"]), ("bitsandbytes.optim.AdamW8bit", ["~optimizer.fused"])],
)
def test_latest_skips_what_is_incomplete_and_two_processes_continue_bit_for_bit(
    workspace, server, optimizer, overrides
):
    overrides = (*SAVING, f"optimizer._component_={optimizer}", "batch_size=2", "num_workers=0", *overrides)
    assert server.train(workspace, "out", *overrides, processes=2).wait() == [0, 0]
    output = workspace.folder / "out"
    last = latest_checkpoint(output)
    assert last.name == "step_000008"
    if "8bit" in optimizer:
        states = load_tree(last / "state", "state")["optimizer"]["state"].values()
        # bitsandbytes keeps small tensors in fp32.
        kinds = {state["__bnb_optimizer_quant_state__"]["state1"].dtype for state in states}
        assert kinds == {torch.float32, torch.uint8}
    whole, rows = {name: (last / name).read_bytes() for name in FILES}, logged(output)
    forget(output, 2)
    run = server.train(workspace, "out", *overrides, processes=2)
    assert run.wait() == [0, 0]
    assert f"resuming from {output}/checkpoint/step_000002, step 2" in run.printed()
    assert [name for name in FILES if (latest_checkpoint(output) / name).read_bytes() != whole[name]] == []
    assert logged(output) == rows


# Processes and samples on each of them; the samples of a step are the same before and after.
@pytest.mark.parametrize(("before", "after"), [((2, 2), (1, 4)), ((1, 4), (2, 2)), ((2, 3), (3, 2))])
def test_another_number_of_processes_continues_with_the_same_steps(workspace, server, before, after):
    output, steps = workspace.folder / "out", 2
    whole = observe(server, workspace, "out", *SAVING, f"batch_size={before[1]}", processes=before[0])
    rows = logged(output)
    forget(output, steps)
    rest = observe(server, workspace, "out", *SAVING, f"batch_size={after[1]}", processes=after[0])
    used = [name for process in whole for name in process["used"]["0"][: steps * before[1]]]
    assert len(used) == steps * before[0] * before[1]
    used += [name for process in rest for name in process["used"].get("0", [])]
    everything = sorted(f"{workspace.data}, row {index}" for index in range(13))
    assert sorted(used) == everything
    assert sorted(name for process in rest for name in process["used"].get("1", [])) == everything
    again = logged(output)
    assert [row["step"] for row in again] == [row["step"] for row in rows]
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in rows], abs=1e-5)
    assert [row["lr"] for row in again] == [row["lr"] for row in rows]


def test_another_batch_size_repeats_and_skips_nothing(workspace, server):
    observe(server, workspace, "out", *SAVING, "batch_size=1", processes=2)
    output = workspace.folder / "out"
    forget(output, 3)
    first = log(output)[:3]
    seen = observe(server, workspace, "out", *SAVING, "batch_size=1", processes=3)
    # 13 samples less three steps of two; then steps of three, and 13 again.
    assert sum(len(process["used"]["0"]) for process in seen) == 7
    assert sum(len(process["used"]["1"]) for process in seen) == 13
    assert [row["epoch"] for row in log(output)] == [0] * 6 + [1] * 5
    assert [row["loss"] for row in log(output)[:3]] == [row["loss"] for row in first]


def test_an_epoch_that_is_already_longer_than_it_may_be_now_is_at_its_end(workspace, server):
    overrides = ("dataset.packed=false", "save_every_n_steps=1", "max_steps_per_epoch=3", "batch_size=2")
    observe(server, workspace, "out", *overrides, processes=2)
    forget(workspace.folder / "out", 2)
    # Eight samples are used; three steps of one process are six.
    (seen,) = observe(server, workspace, "out", *overrides, processes=1)
    assert (len(seen["used"].get("0", [])), len(seen["used"]["1"])) == (0, 6)
    assert [row["epoch"] for row in log(workspace.folder / "out")] == [0, 0, 1, 1, 1]


def test_other_data_is_refused_in_the_middle_of_an_epoch_and_not_at_its_end(workspace, server):
    overrides = ("batch_size=2", "save_every_n_steps=2", "dataset.packed=false", "num_workers=0")
    assert server.train(workspace, "out", *overrides, "epochs=1", processes=2).wait() == [0, 0]
    other = f"dataset.source={workspace.write_data('other.json', workspace.records()[::-1])}"
    middle = f"resume_from_checkpoint={workspace.folder}/out/checkpoint/step_000002"
    for change in (other, "seed=9", "shuffle=false", "dataset.packed=true"):
        refused = server.train(workspace, "out", *overrides, "epochs=2", change, middle, processes=2)
        assert set(refused.wait_as_torchrun()) <= {2, -15}
        said = [line for rank in (0, 1) for line in refused.printed(rank).splitlines() if line.startswith("medcap: ")]
        assert len(said) == 1
        assert "which is in the middle of epoch 1" in said[0]
    assert server.train(workspace, "out", *overrides, "epochs=2", other, processes=2).wait() == [0, 0]
    assert [row["epoch"] for row in log(workspace.folder / "out")] == [0] * 4 + [1] * 4


def test_other_settings_take_effect_from_the_first_step(workspace, server):
    overrides = ("dataset.packed=false", "num_workers=0", "batch_size=4")
    assert server.train(workspace, "out", *overrides, "epochs=1").wait() == [0]
    changes = ("epochs=2", "optimizer.lr=1e-5", "optimizer.weight_decay=0.5", "lr_scheduler=null")
    run = server.train(workspace, "out", *overrides, *changes)
    assert run.wait() == [0]
    assert "the optimizer's settings from now on: lr: 0.0015 -> 1e-05, weight_decay: 0.01 -> 0.5" in run.printed()
    output = workspace.folder / "out"
    assert [row["lr"] for row in log(output)[4:]] == [1e-5] * 4
    state = load_tree(latest_checkpoint(output) / "state", "state")
    (group,) = state["optimizer"]["param_groups"]
    assert (group["lr"], group["weight_decay"]) == (1e-5, 0.5)
    # A cosine over three epochs, from its middle on: warm-up 3, then 9 steps.
    again = server.train(workspace, "out", *overrides, "epochs=3", "optimizer.lr=0.4")
    assert again.wait() == [0]
    expected = [0.2 * (1 + math.cos(math.pi * step / 9)) for step in (5, 6, 7, 8)]
    assert [row["lr"] for row in log(output)[8:]] == pytest.approx(expected)
    other = server.train(workspace, "out", *overrides, "epochs=4", "optimizer._component_=torch.optim.Adam")
    assert other.wait() == [2]
    assert "its optimizer is torch.optim.adamw.AdamW, not torch.optim.adam.Adam" in other.printed().splitlines()[-1]


def test_a_folder_of_a_finished_run_is_left_alone(workspace, server):
    overrides = ("dataset.packed=false", "num_workers=0", "batch_size=4", "epochs=1")
    assert server.train(workspace, "out", *overrides, processes=2).wait() == [0, 0]
    output = workspace.folder / "out"
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    # The second is told once, whichever of its processes meets it.
    for processes in (1, 2):
        refused = server.train(workspace, "out", *overrides, "resume_from_checkpoint=false", processes=processes)
        assert set(refused.wait_as_torchrun()) <= {2, -15}
        said = [line for rank in range(processes) for line in refused.printed(rank).splitlines() if "medcap: " in line]
        assert len(said) == 1 and "is of an earlier run" in said[0]
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_other_weights_than_the_checkpoints_are_refused(workspace, server):
    assert server.train(workspace, "out", "epochs=1", "num_workers=0", "batch_size=7").wait() == [0]
    output = workspace.folder / "out"
    larger = "vision={name: tiny, image_size: 16, stride: 8, width: 64, depth: 1, heads: 2}"
    refused = server.train(workspace, "out", "epochs=2", "num_workers=0", larger)
    assert refused.wait() == [2]
    assert "does not fit this model" in refused.printed().splitlines()[-1]
    shutil.rmtree(latest_checkpoint(output) / "state")
    refused = server.train(workspace, "out", "epochs=2", "num_workers=0")
    assert refused.wait() == [2]
    assert "holds no training state" in refused.printed().splitlines()[-1]


def test_a_finished_run_that_is_started_again_changes_nothing(workspace, server):
    overrides = ("epochs=1", "num_workers=0", "batch_size=4")
    assert server.train(workspace, "out", *overrides, processes=2).wait() == [0, 0]
    output = workspace.folder / "out"
    last = latest_checkpoint(output)
    before, rows = {name: (last / name).read_bytes() for name in FILES}, logged(output)
    assert server.train(workspace, "out", *overrides, processes=2).wait() == [0, 0]
    assert latest_checkpoint(output) == last
    assert {name: (last / name).read_bytes() for name in FILES} == before
    assert logged(output) == rows
    assert json.loads((output / "summary.json").read_text())["steps"] == len(rows)
