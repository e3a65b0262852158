"""A run over several sources: shares, the same order on any number of processes, exact resume."""

import json

import pytest

from helpers.observed_run import observe
from helpers.workspace import log
from medcap.checkpoints.atomic import MARKER, latest_checkpoint

FILES = ("vision.safetensors", "vision.json", "state/state.json", "state/state.safetensors")


@pytest.fixture
def mixture(workspace):
    """Three files of 5, 7 and 1 rows; gives the override that names them with their weights."""
    rows = workspace.records()
    parts = {"a": rows[:5], "b": rows[5:12], "c": rows[12:]}
    files = {name: workspace.write_data(f"{name}.json", part) for name, part in parts.items()}

    def sources(*weights):
        given = [
            {"source": str(file)} | ({} if weight is None else {"weight": weight})
            for file, weight in zip(files.values(), weights, strict=True)
        ]
        return "dataset.source=null", f"dataset.sources={json.dumps(given)}"

    return sources


def interleaved(processes, batch):
    """The names of an epoch in order, of what each process used of each step's batch."""
    columns = [process["used"] for process in processes]
    epochs = {}
    for epoch in columns[0]:
        parts = [column[epoch] for column in columns]
        steps = range(0, max(map(len, parts)), batch)
        epochs[epoch] = [name for step in steps for part in parts for name in part[step : step + batch]]
    return epochs


def test_one_and_two_processes_use_the_same_samples_in_the_same_order(workspace, server, mixture):
    keys = (*mixture(0.5, 0.3, 0.2), "dataset.packed=false", "dataset.epoch_samples=20")
    one = interleaved(observe(server, workspace, "one", *keys, "batch_size=4", processes=1), 4)
    two = interleaved(observe(server, workspace, "two", *keys, "batch_size=2", processes=2), 2)
    assert one == two
    for names in one.values():
        assert [sum(f"/{source}.json, " in name for name in names) for source in "abc"] == [10, 6, 4]


@pytest.mark.parametrize("packed", ["false", "true"])
@pytest.mark.parametrize("step", [2, -2])
def test_a_run_that_was_stopped_in_an_epoch_ends_with_the_bits_of_one_that_was_not(
    workspace, server, mixture, packed, step
):
    keys = (*mixture(3, 1, 1), f"dataset.packed={packed}", "dataset.max_seq_len=64", "batch_size=1", "num_workers=0")
    keys = (*keys, "epochs=2", "save_every_n_steps=1", "dataset.epoch_samples=16")
    assert server.train(workspace, "out", *keys).wait() == [0]
    output = workspace.folder / "out"
    last = latest_checkpoint(output)
    rows = [(row["step"], row["epoch"], row["loss"]) for row in log(output)]
    whole = {name: (last / name).read_bytes() for name in FILES}
    step = step if step > 0 else len(rows) + step  # in the second epoch
    assert [row[1] for row in rows if row[0] in (step, step + 1)] == [0 if step == 2 else 1] * 2
    for folder in (output / "checkpoint").glob("step_*"):
        if int(folder.name.removeprefix("step_")) > step:
            (folder / MARKER).unlink()
    run = server.train(workspace, "out", *keys)
    assert run.wait() == [0]
    assert f"step_{step:06}, step {step}" in run.printed()
    assert [name for name in FILES if (latest_checkpoint(output) / name).read_bytes() != whole[name]] == []
    assert [(row["step"], row["epoch"], row["loss"]) for row in log(output)] == rows


def test_other_weights_are_refused_in_the_middle_of_an_epoch(workspace, server, mixture):
    keys = ("dataset.packed=false", "batch_size=4", "save_every_n_steps=2", "num_workers=0", "epochs=1")
    run = server.train(workspace, "out", *mixture(1, 2, 1), *keys)
    assert run.wait() == [0]
    assert "  b            7 rows            7 samples an epoch (53.8%), 1.00 passes" in run.printed()
    middle = f"resume_from_checkpoint={workspace.folder}/out/checkpoint/step_000002"
    refused = server.train(workspace, "out", *mixture(1, 1, 1), *keys, middle)
    assert refused.wait() == [2]
    assert "which is in the middle of epoch 1" in refused.printed()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("dataset.sources.1.weight=0", "dataset.sources.1.weight=0.0 must be above 0"),
        ("dataset.sources.1.weight=-1", "dataset.sources.1.weight=-1.0 must be above 0"),
        ("dataset.sources.1.weight=.nan", "dataset.sources.1.weight=nan must be a finite number"),
        ("dataset.sources.1.weight=null", "dataset.sources.1.weight is missing: give each source a weight, or none"),
        ("dataset.sources.1.wieght=1", "unknown key dataset.sources.1.wieght: did you mean dataset.sources.1.weight?"),
        ("dataset.sources.1.source=none.json", "data file none.json does not exist"),
        ("dataset.sources.1.name=a", "dataset.sources: two sources are called a: give them a name"),
        ("dataset.sources.3.weight=1", "dataset.sources.3"),
        ("dataset.source=a.json", "dataset.source and dataset.sources are both given"),
        ("dataset.sources=a.json", "dataset.sources='a.json' must be a list of mappings"),
        ("dataset.epoch_samples=2", "c would have no sample in an epoch of 2: raise its weight or"),
    ],
)
def test_mistakes_are_one_line_each(workspace, server, mixture, change, words):
    run = server.train(workspace, "out", *mixture(5, 3, 1), change)
    assert run.wait() == [2]
    (line,) = [line for line in run.printed().splitlines() if line.startswith("medcap: ")]
    assert words in line
    assert "parameters" not in run.printed()  # the banner comes once the weights are loaded
