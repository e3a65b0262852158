import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from helpers.observed_run import hash_of, observations
from helpers.warm_start import WarmStart
from helpers.workspace import TINY_VISION, Workspace, log, tune
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.tensor_tree import load_tree


@pytest.fixture(scope="module")
def server():
    with WarmStart() as server:
        yield server


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


@pytest.fixture
def finish(workspace, server):
    """Run the recipe to its end; gives the output folder."""

    def run(output, *overrides, processes=1):
        started = server.train(workspace, output, "num_workers=0", *overrides, processes=processes)
        assert started.wait() == [0] * processes, started.printed()
        return workspace.folder / output

    return run


def weights(output):
    return load_file(latest_checkpoint(output) / "vision.safetensors")


def optimizer_state(output):
    return load_tree(latest_checkpoint(output) / "state", "state")["optimizer"]["state"]


def assert_same_run(one, other, tolerance=1e-5):
    losses = [[row["loss"] for row in log(output)] for output in (one, other)]
    assert len(losses[0]) > 2
    assert losses[0] == pytest.approx(losses[1], abs=tolerance)
    norms = [[row["grad_norm"] for row in log(output)] for output in (one, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def assert_same_weights(one, other, tolerance=1e-5):
    theirs = weights(other)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=tolerance)


LAYOUTS = {
    "samples": ("dataset.packed=false",),
    "rows": ("dataset.packed=true", "dataset.max_seq_len=48"),
    "accumulated": ("dataset.packed=false", "gradient_accumulation_steps=2"),
}


# AdamW divides by the size of a gradient, which makes the rounding errors of one that is zero as large as any other;
# so its losses are compared, and the weights themselves after SGD.
SGD = ("optimizer._component_=torch.optim.SGD", "optimizer.lr=0.05", "optimizer.momentum=0.9", "~optimizer.betas")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_make_the_steps_of_one(finish, layout):
    # 13 samples, one of them without an image: the last batch is odd, and a rank can be without an image.
    overrides = ("epochs=3", *LAYOUTS[layout])
    one = finish("one", *overrides, "batch_size=4")
    two = finish("two", *overrides, "batch_size=2", processes=2)
    assert_same_run(one, two)
    one = finish("one_sgd", *overrides, *SGD, "batch_size=4")
    two = finish("two_sgd", *overrides, *SGD, "batch_size=2", processes=2)
    assert_same_run(one, two)
    assert_same_weights(one, two)
    ours, theirs = optimizer_state(one), optimizer_state(two)
    assert ours.keys() == theirs.keys()
    for index, state in ours.items():
        torch.testing.assert_close(theirs[index]["momentum_buffer"], state["momentum_buffer"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("packed", ["false", "true"])
def test_sharded_layers_make_the_same_steps(workspace, finish, packed):
    # Three processes and a batch of one unit: in the last step of an epoch some have nothing to do.
    overrides = ("epochs=2", "batch_size=1", f"dataset.packed={packed}", "dataset.max_seq_len=48", *SGD)
    whole = finish("whole", *overrides, "parallelism=replicate", processes=3)
    divided = finish("divided", *overrides, "parallelism=shard", processes=3)
    again = finish("again", *overrides, "parallelism=shard", "enable_activation_checkpointing=true", processes=3)
    assert_same_run(whole, divided)
    assert_same_run(whole, again)
    assert_same_weights(whole, divided)
    assert_same_weights(whole, again)
    summaries = [json.loads((output / "summary.json").read_text()) for output in (whole, divided)]
    assert len({summary[key] for summary in summaries for key in ("llm_sha256_before", "llm_sha256_after")}) == 1


OBSERVED = "helpers.observed_run"


def observe(server, workspace, output, *overrides, processes, status=0):
    run = server.train(workspace, output, "num_workers=0", *overrides, processes=processes, module=OBSERVED)
    assert run.wait() == [status] * processes, run.printed()
    return observations(workspace.folder / output)


@pytest.mark.parametrize("mode", ["replicate", "shard"])
@pytest.mark.parametrize("optimizer", ["torch.optim.AdamW", "torch.optim.Adafactor"])
def test_every_process_ends_with_the_weights_that_were_saved(workspace, server, mode, optimizer):
    # The state of AdamW is divided over the processes, that of Adafactor is not.
    overrides = [f"optimizer._component_={optimizer}", f"parallelism={mode}", "epochs=2", "batch_size=2"]
    if "Adafactor" in optimizer:
        overrides += ["~optimizer.betas", "~optimizer.fused"]
    seen = observe(server, workspace, "out", *overrides, processes=2)
    saved = {name: hash_of(tensor) for name, tensor in weights(workspace.folder / "out").items()}
    assert [process["weights"] for process in seen] == [saved, saved]
    start = observe(server, workspace, "start", *overrides, "optimizer.lr=0", processes=2)
    assert start[0]["weights"].keys() == saved.keys()
    assert sum(start[0]["weights"][name] != saved[name] for name in saved) > len(saved) // 2


@pytest.mark.parametrize("packed", ["true", "false"])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_epoch_uses_every_record_once_on_any_number_of_processes(workspace, server, processes, packed):
    overrides = ("epochs=2", "batch_size=2", f"dataset.packed={packed}", "dataset.max_seq_len=48")
    seen = observe(server, workspace, "out", *overrides, processes=processes)
    everything = sorted(f"{workspace.data}, row {index}" for index in range(13))
    for epoch in ("0", "1"):
        assert sorted(name for process in seen for name in process["used"].get(epoch, [])) == everything


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_another_number_of_processes_goes_on_without_repeating_or_skipping(workspace, server, before, after):
    overrides = ("batch_size=1", "save_every_n_steps=1", "epochs=2", "dataset.packed=false")
    whole = observe(server, workspace, "out", *overrides, processes=before)
    folder = workspace.folder / "out" / "checkpoint"
    for file in (workspace.folder / "out").glob("observed_*.json"):
        file.unlink()
    middle = folder / "step_000004"
    done = 4 * before
    used = [name for process in whole for name in process["used"]["0"]]
    assert len(used) == 13 > done
    overrides = (*overrides, f"resume_from_checkpoint={middle}")
    seen = observe(server, workspace, "out", *overrides, processes=after)
    rest = [name for process in seen for name in process["used"]["0"]]
    first = [name for process in whole for name in process["used"]["0"][:4]]
    assert len(first) == done
    assert sorted(first + rest) == sorted(used)
    assert len([name for process in seen for name in process["used"]["1"]]) == 13
    losses = [row["loss"] for row in log(workspace.folder / "out")]
    assert losses[-1] < losses[0]


def test_other_data_in_the_middle_of_an_epoch_is_refused_and_at_its_end_is_not(workspace, server):
    overrides = ("batch_size=2", "save_every_n_steps=2", "dataset.packed=false", "num_workers=0")
    assert server.train(workspace, "out", *overrides, processes=2).wait() == [0, 0]
    other = f"dataset.source={workspace.write_data('other.json', workspace.records()[::-1])}"
    middle = f"resume_from_checkpoint={workspace.folder}/out/checkpoint/step_000002"
    for change in (other, "seed=9", "shuffle=false"):
        refused = server.train(workspace, "out", *overrides, "epochs=2", change, middle, processes=2)
        assert 2 in refused.wait_as_torchrun()
        said = [line for rank in (0, 1) for line in refused.printed(rank).splitlines() if line.startswith("medcap: ")]
        assert len(said) == 1
        assert "which is in the middle of epoch 1" in said[0]
    end = "resume_from_checkpoint=latest"
    assert server.train(workspace, "out", *overrides, "epochs=2", other, end, processes=2).wait() == [0, 0]


@pytest.mark.parametrize("optimizer", ["torch.optim.AdamW", "bitsandbytes.optim.AdamW8bit"])
def test_a_resumed_run_on_two_processes_is_bit_identical(workspace, finish, optimizer):
    overrides = [f"optimizer._component_={optimizer}", "batch_size=2", "dataset.packed=false", "epochs=2"]
    overrides += ["save_every_n_steps=1"] + (["~optimizer.fused"] if "8bit" in optimizer else [])
    whole = finish("whole", *overrides, processes=2)
    other = finish("other", *overrides, f"resume_from_checkpoint={whole}/checkpoint/step_000002", processes=2)
    files = [latest_checkpoint(output) for output in (whole, other)]
    for name in ("vision.safetensors", "state/state.json", "state/state.safetensors"):
        assert (files[0] / name).read_bytes() == (files[1] / name).read_bytes(), name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batchsize=4", "unknown key batchsize: did you mean batch_size?"),
        ("parallelism=both", "must be one of auto, replicate, shard"),
        ("cpu_offload=true", "cpu_offload=true: the weights are on the CPU already"),
        ("dataset.source=nowhere.json", "data file nowhere.json does not exist"),
        ("device=cuda", "no usable GPU"),
        ("resume_from_checkpoint=nowhere", "resume_from_checkpoint=nowhere is not a complete checkpoint"),
        ("optimizer.lr=-1", "optimizer: Invalid learning rate"),
    ],
)
def test_a_mistake_is_told_once_and_nobody_waits(workspace, server, override, message):
    if override == "device=cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    run = server.train(workspace, "out", override, processes=2)
    run.wait_as_torchrun()
    said = run.printed(0) + run.printed(1)
    assert [message in line for line in said.splitlines() if line.startswith("medcap: ")] == [True]
    assert "Traceback" not in said


def test_without_torchrun_the_command_is_told(workspace, capsys):
    with pytest.raises(SystemExit) as end:
        tune("full_finetune_distributed", "medcap/tiny/distributed", *workspace.model_overrides(), "vision=tiny")
    assert end.value.code == 2
    assert "tune run --nproc_per_node 2 medcap/recipes/full_finetune_distributed" in capsys.readouterr().err


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_is_gone(workspace, server):
    first = server.train(workspace, "out", "epochs=2000", "num_workers=1")
    folder = workspace.folder / "out" / "checkpoint"
    while latest_checkpoint(folder) is None:
        assert first.alive(), first.printed()
    second = server.train(workspace, "out", "epochs=3")
    assert second.wait() == [2]
    assert "another run is writing to" in second.printed()
    assert first.alive()
    first.kill()
    first.wait()
    assert server.train(workspace, "out", "epochs=1", "resume_from_checkpoint=false").wait() == [0]


def test_torchrun_runs_the_recipe(workspace):
    command = [sys.executable, "-m", "torchtune._cli.tune", "run", "--nproc_per_node", "2"]
    command += ["medcap/recipes/full_finetune_distributed", "--config", "medcap/tiny/distributed"]
    command += [*workspace.model_overrides(), f"output_dir={workspace.folder}/out", f"vision={TINY_VISION}"]
    command += [
        "projector.num_image_tokens=4",
        f"dataset.source={workspace.data}",
        "dataset.max_seq_len=96",
        "epochs=1",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=workspace.folder)
    assert ended.returncode == 0, ended.stderr
    assert "optimizer state sharded over 2 processes" in ended.stderr
    assert json.loads((workspace.folder / "out" / "summary.json").read_text())["processes"] == 2
