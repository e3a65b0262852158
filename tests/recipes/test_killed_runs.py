"""A run that is killed at any moment and resumed ends with the same files as an undisturbed one."""

import json
import random
import time

import pytest

from medcap.checkpoints.atomic import latest_checkpoint

NUM_KILLS = 14


def files_of(checkpoint):
    """Every file of a checkpoint by its name, and its bytes."""
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}


def logged(output):
    """What each step logged, without how long it took."""
    lines = (output / "log" / "metrics.jsonl").read_text().splitlines()
    timed = {"tokens_per_second", "label_tokens_per_second", "images_per_second", "data_wait"}
    return [{key: value for key, value in json.loads(line).items() if key not in timed} for line in lines]


def wait_for_a_moment(run, folder, chance, number):
    """Until a checkpoint is being written (odd numbers), or for a random time; False if the run ended before."""
    before = latest_checkpoint(folder)
    deadline = time.monotonic() + 60
    # Something new must be on disk first: else the run would never get on.
    while latest_checkpoint(folder) == before and time.monotonic() < deadline:
        if not run.alive():
            return False
        time.sleep(0.002)
    if number % 2 == 0:
        time.sleep(chance.uniform(0, 0.3))
        return run.alive()
    while run.alive() and time.monotonic() < deadline:
        for _ in range(200):
            if any(folder.glob(".step_*.partial")):
                time.sleep(chance.uniform(0, 0.003))
                return True
    return False


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_ends_with_the_files_of_an_undisturbed_one(workspace, server, processes):
    overrides = (
        "epochs=8",
        "batch_size=1",
        "dataset.packed=false",
        "num_workers=1",
        "save_every_n_steps=1",
        "keep_last=3",
    )
    quiet = server.train(workspace, "quiet", *overrides, processes=processes)
    assert quiet.wait() == [0] * processes, quiet.printed()
    chance = random.Random(processes)
    folder = workspace.folder / "killed" / "checkpoint"
    kills = while_writing = 0
    while True:
        run = server.train(workspace, "killed", *overrides, processes=processes)
        if (kills >= NUM_KILLS and while_writing >= 3) or not wait_for_a_moment(run, folder, chance, kills):
            break
        # One process of two is enough: the other must notice, and end by itself.
        run.kill(*(range(processes) if kills % 2 else [chance.randrange(processes)]))
        run.wait()
        kills += 1
        while_writing += any(folder.glob(".step_*.partial"))
    assert run.wait() == [0] * processes, run.printed()
    assert kills >= 12
    assert while_writing >= 3
    quiet_files = files_of(latest_checkpoint(workspace.folder / "quiet"))
    killed_files = files_of(latest_checkpoint(workspace.folder / "killed"))
    assert {"vision.safetensors", "vision.json", "state/state.json", "state/state.safetensors"} <= quiet_files.keys()
    assert killed_files.keys() == quiet_files.keys()
    assert [name for name in quiet_files if killed_files[name] != quiet_files[name]] == []
    assert logged(workspace.folder / "killed") == logged(workspace.folder / "quiet")
    assert not list(folder.glob(".*.partial"))
    assert len(list(folder.glob("step_*"))) == 3
