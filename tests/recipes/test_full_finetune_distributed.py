import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from helpers.faulty_runs import wait_until
from helpers.observed_run import hash_of, observe
from helpers.waiting import PATIENCE
from helpers.workspace import TINY_VISION, log, tune
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.tensor_tree import load_tree

pytestmark = pytest.mark.processes


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


def metrics(output):
    return (output / "log" / "metrics.jsonl").read_text().splitlines()


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
    assert theirs.keys() == weights(one).keys()
    for name, tensor in weights(one).items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=tolerance)


LAYOUTS = {
    "samples": ("dataset.packed=false",),
    "rows": ("dataset.packed=true", "dataset.max_seq_len=48"),
    "accumulated": ("dataset.packed=false", "gradient_accumulation_steps=2"),
}


# AdamW divides by a gradient's size, which would make the rounding errors of one that is zero as large as any other.
ADAMW = ("optimizer.eps=1e-4",)
SGD = ("optimizer._component_=torch.optim.SGD", "optimizer.lr=0.05", "optimizer.momentum=0.9", "~optimizer.betas")


# Its state is kept whole on every process. Its eps[1] is the smallest size of weights that a step is relative to.
ADAFACTOR = ("optimizer._component_=torch.optim.Adafactor", "~optimizer.betas", "~optimizer.fused")


@pytest.mark.parametrize("optimizer", [ADAMW, SGD, ADAFACTOR], ids=["adamw", "sgd", "adafactor"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_make_the_steps_of_one(finish, layout, optimizer):
    # 13 samples, one of them without an image: the last batch is odd, and of one item for two processes.
    overrides = ("epochs=3", *LAYOUTS[layout], *optimizer)
    one = finish("one", *overrides, "batch_size=4")
    two = finish("two", *overrides, "batch_size=2", processes=2)
    assert_same_run(one, two)
    assert_same_weights(one, two)
    ours, theirs = optimizer_state(one), optimizer_state(two)
    assert ours.keys() == theirs.keys()
    for index, state in ours.items():
        assert state.keys() == theirs[index].keys()
        for name in state.keys() & {"step", "momentum_buffer", "exp_avg", "exp_avg_sq"}:
            torch.testing.assert_close(theirs[index][name], state[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("mode", ["replicate", "shard"])
def test_processes_and_steps_without_an_image_make_the_steps_of_one(workspace, finish, mode):
    image, text = workspace.records()[0], workspace.records()[-1]
    # Of four: the second process has none; none has one; the first process has none; the first has no item at all.
    rows = [image, image, text, text, text, text, text, text, text, text, image, image, image]
    workspace.data = workspace.write_data("mixed.json", rows)
    overrides = ("dataset.packed=false", "shuffle=false", "epochs=2", "clip_grad_norm=0.5", *ADAMW)
    overrides = (*overrides, f"validation_source={workspace.data}", "eval_every_n_steps=2")
    one = finish("one", *overrides, "batch_size=4")
    two = finish("two", *overrides, "batch_size=2", f"parallelism={mode}", processes=2)
    assert [row["grad_norm"] == 0 for row in log(two)] == [False, True, False, False] * 2
    assert_same_run(one, two)
    assert_same_weights(one, two)
    checks = [[row for row in map(json.loads, metrics(output)) if "validation_loss" in row] for output in (one, two)]
    assert [row["step"] for row in checks[1]] == [row["step"] for row in checks[0]] == [2, 4, 6, 8]
    for ours, theirs in zip(*checks, strict=True):
        assert theirs["validation_loss"] == pytest.approx(ours["validation_loss"], abs=1e-5)


@pytest.mark.parametrize("packed", ["false", "true"])
def test_sharded_layers_make_the_steps_of_one_process(finish, packed):
    # Three processes and a batch of one item: in the last step of an epoch two of them have nothing to do.
    overrides = ("epochs=2", f"dataset.packed={packed}", "dataset.max_seq_len=48", *SGD)
    one = finish("one", *overrides, "batch_size=3")
    divided = finish("divided", *overrides, "batch_size=1", "parallelism=shard", processes=3)
    overrides = (*overrides, "enable_activation_checkpointing=true")
    again = finish("again", *overrides, "batch_size=1", "parallelism=shard", processes=3)
    hashes = set()
    for output in (one, divided, again):
        assert_same_run(one, output)
        assert_same_weights(one, output)
        summary = json.loads((output / "summary.json").read_text())
        hashes |= {summary["llm_sha256_before"], summary["llm_sha256_after"]}
    assert len(hashes) == 1
    assert None not in hashes


@pytest.mark.parametrize("mode", ["replicate", "shard"])
@pytest.mark.parametrize("optimizer", ["torch.optim.AdamW", "torch.optim.Adafactor"])
def test_every_process_ends_with_the_weights_that_were_saved(workspace, server, mode, optimizer):
    # The state of AdamW is divided over the processes, that of Adafactor is not.
    overrides = [f"optimizer._component_={optimizer}", f"parallelism={mode}", "batch_size=2"]
    if "Adafactor" in optimizer:
        overrides += ["~optimizer.betas", "~optimizer.fused"]
    seen = observe(server, workspace, "out", "save_every_n_steps=1", *overrides, processes=2)
    output = workspace.folder / "out"
    saved = {name: hash_of(tensor) for name, tensor in weights(output).items()}
    assert [process["weights"] for process in seen] == [saved, saved]
    # The first step's learning rate is 0.
    start = load_file(output / "checkpoint" / "step_000001" / "vision.safetensors")
    assert sum(hash_of(start[name]) != saved[name] for name in saved) > len(saved) // 2


@pytest.mark.parametrize("packed", ["true", "false"])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_epoch_uses_every_record_once_on_any_number_of_processes(workspace, server, processes, packed):
    overrides = ("batch_size=2", f"dataset.packed={packed}", "dataset.max_seq_len=48")
    seen = observe(server, workspace, "out", *overrides, processes=processes)
    everything = sorted(f"{workspace.data}, row {index}" for index in range(13))
    for epoch in ("0", "1"):
        assert sorted(name for process in seen for name in process["used"].get(epoch, [])) == everything


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batchsize=4", "unknown key batchsize: did you mean batch_size?"),
        ("parallelism=both", "must be one of auto, replicate, shard"),
        ("cpu_offload=true", "cpu_offload=true: the weights are on the CPU already"),
        ("dataset.source=nowhere.json", "data file nowhere.json does not exist"),
        ("device=cuda", "no usable GPU"),
        ("resume_from_checkpoint=nowhere", "resume_from_checkpoint=nowhere is not a complete checkpoint"),
        ("optimizer.lr=-1", "optimizer.lr=-1.0 must be at least 0"),
    ],
)
def test_a_mistake_is_reported_once_and_nobody_waits(workspace, server, override, message):
    if override == "device=cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    run = server.train(workspace, "out", override, processes=2)
    run.wait_as_torchrun()
    said = run.printed(0) + run.printed(1)
    assert [message in line for line in said.splitlines() if line.startswith("medcap: ")] == [True]
    assert "Traceback" not in said


def test_without_torchrun_the_command_is_shown(workspace, capsys):
    with pytest.raises(SystemExit) as end:
        tune("full_finetune_distributed", "medcap/tiny/distributed", *workspace.model_overrides(), "vision=tiny")
    assert end.value.code == 2
    assert "tune run --nproc_per_node 2 medcap/recipes/full_finetune_distributed" in capsys.readouterr().err


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_has_ended(workspace, server):
    first = server.train(workspace, "out", "epochs=2000", "num_workers=1")
    folder = workspace.folder / "out" / "checkpoint"
    wait_until(lambda: latest_checkpoint(folder), first)
    second = server.train(workspace, "out", "epochs=3")
    assert second.wait() == [2]
    assert "another run is writing to" in second.printed()
    assert first.alive()
    first.kill()
    first.wait()
    assert server.train(
        workspace, "out", "epochs=3000", "max_steps_per_epoch=1", "resume_from_checkpoint=false"
    ).wait() == [2]


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
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=workspace.folder)
    assert ended.returncode == 0, ended.stderr
    assert "optimizer state sharded over 2 processes" in ended.stderr
    assert json.loads((workspace.folder / "out" / "summary.json").read_text())["processes"] == 2


@pytest.mark.parametrize("processes", [1, 2])
def test_checkpoints_by_minutes(workspace, server, processes):
    slow = ("projector._component_=helpers.faulty_components.faulty_mlp", "projector.delay=0.06")
    overrides = (*slow, "dataset.packed=false", "batch_size=1", "epochs=1", "num_workers=0", "save_every_minutes=0.003")
    run = server.train(workspace, "out", *overrides, processes=processes)
    assert run.wait() == [0] * processes, run.printed()
    steps = [int(path.name.removeprefix("step_")) for path in (workspace.folder / "out" / "checkpoint").glob("step_*")]
    assert sorted(steps)[-1] == len(log(workspace.folder / "out"))
    # A step takes a third of the time or more: not every one saves, but several do.
    assert 2 <= len(steps) <= 1 + (len(log(workspace.folder / "out")) - 1) // 2
