"""Whole runs on a GPU: every component, checkpoints, resume, and one process that uses NCCL."""

import pytest
import torch
from safetensors.torch import load_file

from helpers.every_component import MODEL, component_workspace
from helpers.workspace import Workspace, log
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.tensor_tree import CpuCopies, load_tree, save_tree
from medcap.models.component_registry import COMPONENTS

# FlexAttention takes heads of 16 numbers and more.
WIDE_HEADS = {"num_heads": 2, "num_kv_heads": 1}
EVERY = f"trainable=[{','.join(COMPONENTS)}]"


def test_every_component_learns_as_on_the_cpu(device, tmp_path):
    workspace = component_workspace(tmp_path, **WIDE_HEADS)
    # AdamW divides by a gradient's size, which would make the rounding errors of one that is zero as large as any.
    overrides = (*MODEL, EVERY, "dtype=fp32", "dataset.packed=true", "optimizer.eps=1e-4")
    plain = log(workspace.train(*overrides, output="plain"))
    there = log(workspace.train(*overrides, f"device={device.type}", "compile=false", output="there"))
    names = [name for name in plain[0] if name.startswith("loss")]
    assert len(names) == 12 and len(plain) == len(there) > 1
    for row, expected in zip(there, plain, strict=True):
        assert [row[name] for name in names] == pytest.approx([expected[name] for name in names], rel=2e-3, abs=1e-4)
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8])
def test_a_checkpoint_holds_the_devices_bytes_though_they_change_at_once(device, tmp_path, dtype):
    copies = CpuCopies()
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        wanted = torch.randint(0, 255, (1 << 22,), dtype=torch.uint8, generator=generator).to(dtype)
        tensor = wanted.to(device)
        if device.type == "cuda":
            # A long queue before the copy: who does not wait for it reads what was there before.
            torch.cuda._sleep(50_000_000)
        tensor = tensor + 0
        kept = copies.copy({"tensor": tensor})
        tensor.zero_()
        save_tree(tmp_path, f"state_{number}", kept)
        assert torch.equal(load_tree(tmp_path, f"state_{number}")["tensor"], wanted)


def test_a_resumed_run_goes_on_as_the_one_that_was_not_stopped(device, tmp_path):
    workspace = component_workspace(tmp_path, **WIDE_HEADS)
    overrides = (*MODEL, EVERY, "dtype=fp32", "dataset.packed=true", "epochs=2", "optimizer.eps=1e-4")
    overrides = (*overrides, f"device={device.type}", "compile=false")
    whole = workspace.train(*overrides, output="whole")
    first = min((whole / "checkpoint").glob("step_*"))
    resumed = workspace.train(*overrides, f"resume_from_checkpoint={first}", output="resumed")
    expected, found = log(whole), log(resumed)
    assert 0 < len(found) < len(expected)
    # Sums of a GPU's kernels are not in one order.
    losses = [row["loss"] for row in expected[-len(found) :]]
    assert [row["loss"] for row in found] == pytest.approx(losses, rel=1e-3)
    for path in sorted(latest_checkpoint(whole).glob("*.safetensors")):
        before, after, again = (load_file(one / path.name) for one in (first, path.parent, latest_checkpoint(resumed)))
        for name, tensor in after.items():
            torch.testing.assert_close(again[name], tensor, rtol=1e-2, atol=2e-3)
        assert any(not torch.equal(before[name], tensor) for name, tensor in after.items()), path.name


@pytest.mark.parametrize("mode", ["replicate", "shard"])
def test_one_process_of_the_distributed_recipe_makes_the_steps_of_the_plain_one(device, server, tmp_path, mode):
    workspace = Workspace(tmp_path, **WIDE_HEADS)
    overrides = ("dtype=fp32", f"device={device.type}", "dataset.packed=true", "compile=false", "optimizer.eps=1e-4")
    plain = log(workspace.train(*overrides, output="plain"))
    words = ["--config", "medcap/tiny/distributed", *workspace.training(*overrides, output="there")[2:]]
    run = server.start(
        tmp_path / "logs", [*words, f"parallelism={mode}"], module="medcap.recipes.full_finetune_distributed"
    )
    assert run.wait(300) == [0], run.printed()
    there = log(tmp_path / "there")
    assert len(plain) == len(there) > 1
    assert [row["loss"] for row in there] == pytest.approx([row["loss"] for row in plain], rel=1e-4)
