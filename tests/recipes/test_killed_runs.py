"""A run that is killed at any moment and resumed ends with the same files as an undisturbed one."""

import json
import signal
import time

import pytest

from medcap.checkpoints.atomic import latest_checkpoint

# Operations of a checkpoint's writer before which the process is killed, and milliseconds after which it is.
MOMENTS = {
    1: [(1, 0), (2, 0), (3, 0), (5, 0), (7, 0), (9, 0), (11, 0), (13, 0), (0, 3), (0, 20)],
    2: [(2, 0), (5, 0), (8, 0), (10, 0), (0, 10)],
}


def files_of(checkpoint):
    """Every file of a checkpoint by its name, and its bytes."""
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}


def logged(output):
    """What each step logged, without how long it took."""
    lines = (output / "log" / "metrics.jsonl").read_text().splitlines()
    timed = {"tokens_per_second", "label_tokens_per_second", "images_per_second", "data_wait"}
    return [{key: value for key, value in json.loads(line).items() if key not in timed} for line in lines]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_ends_with_the_files_of_an_undisturbed_one(workspace, server, processes):
    overrides = (
        f"epochs={4 * processes}",
        "batch_size=1",
        "dataset.packed=false",
        "num_workers=1",
        "save_every_n_steps=1",
        "keep_last=3",
        "llm_lora={rank: 2, dropout: 0.1}",
        "words=[<SEG>]",
        "trainable=[vision,projector,llm_lora,words]",
    )
    quiet = server.train(workspace, "quiet", *overrides, processes=processes)
    assert quiet.wait() == [0] * processes, quiet.printed()
    folder = workspace.folder / "killed" / "checkpoint"
    while_writing = 0
    for operation, milliseconds in MOMENTS[processes]:
        words = (*overrides, f"kill_at={operation},{milliseconds}")
        run = server.train(workspace, "killed", *words, processes=processes, module="helpers.killed_run")
        # One process of two is killed: the other must notice, and end by itself.
        assert run.wait()[0] == -(signal.SIGKILL if operation else signal.SIGALRM), run.printed()
        while_writing += any(folder.glob(".step_*.partial"))
    assert while_writing >= 3
    run = server.train(workspace, "killed", *overrides, processes=processes)
    if processes == 2:
        # The other way round: the process that writes must notice.
        before = latest_checkpoint(folder)
        # Without a pause this would take a processor from the run that it watches.
        while run.alive() and latest_checkpoint(folder) == before:
            time.sleep(0.002)
        run.kill(1)
        run.wait()
        run = server.train(workspace, "killed", *overrides, processes=processes)
    assert run.wait() == [0] * processes, run.printed()
    quiet_files = files_of(latest_checkpoint(workspace.folder / "quiet"))
    killed_files = files_of(latest_checkpoint(workspace.folder / "killed"))
    weights = {f"{name}.safetensors" for name in ("vision", "llm_lora", "words")}
    assert weights | {"vision.json", "state/state.json", "state/state.safetensors"} <= quiet_files.keys()
    assert killed_files.keys() == quiet_files.keys()
    assert [name for name in quiet_files if killed_files[name] != quiet_files[name]] == []
    assert logged(workspace.folder / "killed") == logged(workspace.folder / "quiet")
    assert not list(folder.glob(".*.partial"))
    assert len(list(folder.glob("step_*"))) == 3
