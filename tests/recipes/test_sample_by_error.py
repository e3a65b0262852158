"""A run whose sources get new shares from their losses: which shares, the same bits after a stop, what is refused."""

import json

import pytest

from helpers.workspace import log
from medcap.checkpoints.atomic import MARKER, latest_checkpoint

FILES = ("vision.safetensors", "vision.json", "state/state.json", "state/state.safetensors")


@pytest.fixture
def sources(workspace):
    rows = workspace.records()
    given = [{"source": str(workspace.write_data(f"{name}.json", rows[start::2]))} for start, name in enumerate("ab")]
    return "dataset.source=null", f"dataset.sources={json.dumps(given)}"


def shares(output):
    rows = map(json.loads, (output / "log" / "metrics.jsonl").read_text().splitlines())
    found = [row for row in rows if "source_share/a" in row]
    return [(row["source_loss/a"], row["source_loss/b"], row["source_share/a"]) for row in found]


@pytest.mark.slow
@pytest.mark.parametrize("packed", ["false", "true"])
def test_shares_follow_the_losses_and_a_run_that_was_stopped_ends_with_the_same_bits(
    workspace, server, sources, packed
):
    keys = (*sources, f"dataset.packed={packed}", "dataset.max_seq_len=64", "batch_size=2", "num_workers=0", "epochs=3")
    keys = (*keys, "sample_by_error.every_n_steps=3", "sample_by_error.strength=2", "save_every_n_steps=1")
    run = server.train(workspace, "out", *keys)
    assert run.wait() == [0]
    assert "shares of the sources from now on: a " in run.printed()
    output = workspace.folder / "out"
    found = shares(output)
    assert len(found) == 2  # the second and the third epoch
    steps = max(row["step"] for row in log(output))
    assert steps == 9 if packed == "false" else 7 <= steps <= 11
    for own, other, share in found:
        # Both files have as many rows, so the shares are those of the squared losses.
        assert share == pytest.approx(own**2 / (own**2 + other**2), abs=0.2)
        assert (share > 0.5) == (own > other) or share == 0.5
    last = latest_checkpoint(output)
    whole = {name: (last / name).read_bytes() for name in FILES}
    for folder in (output / "checkpoint").glob("step_*"):
        if int(folder.name.removeprefix("step_")) > steps - 1:
            (folder / MARKER).unlink()
    assert server.train(workspace, "out", *keys).wait() == [0]
    assert [name for name in FILES if (latest_checkpoint(output) / name).read_bytes() != whole[name]] == []
    assert shares(output) == found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("dataset.epoch_samples=10",), "dataset.epoch_samples and sample_by_error.every_n_steps both say"),
        (("sample_by_error.strength=0",), "sample_by_error.strength=0.0 must be above 0"),
        (("sample_by_error.every_n_step=3",), "did you mean sample_by_error.every_n_steps?"),
    ],
)
def test_wrong_keys_are_refused(workspace, server, sources, change, words):
    run = server.train(workspace, "out", *sources, "sample_by_error.every_n_steps=3", *change)
    assert run.wait() == [2]
    assert words in run.printed()


def test_one_source_has_no_shares(workspace, server):
    run = server.train(workspace, "out", "sample_by_error.every_n_steps=3")
    assert run.wait() == [2]
    assert "name two or more there" in run.printed()
