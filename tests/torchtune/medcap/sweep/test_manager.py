import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import medcap.sweep
from helpers.sweeps import STAND_IN, Running, children, definition, kill, starts, table, waiting_trial
from helpers.waiting import wait_for
from medcap.errors import UserError
from medcap.sweep import manager

pytestmark = pytest.mark.processes

COLUMNS = ["trial", "state", "value", "seed", "step", "attempts", "seconds", "worker", "reason", "folder"]
TRAIN, TEST = "full_finetune_single_device", "generate"


@pytest.fixture
def run(monkeypatch):
    """``medcap.sweep.run`` whose trials are the stand-in's."""
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    monkeypatch.setattr(manager, "POLL_SECONDS", 0.1)
    return medcap.sweep.run


@pytest.mark.slow
def test_a_killed_worker_and_a_failing_trial_leave_a_whole_table(tmp_path):
    out = tmp_path / "out"
    overrides = definition(out)["overrides"] | {"epochs": 6, "batch_size": 1}
    sweep = definition(out, overrides=overrides, grid={"seed": [93, 1, 91, 2, 5, 4]})
    process = Running(tmp_path, sweep, "--workers", "2")
    worker, trial = waiting_trial(process.pid, out)
    kill(worker)
    status, printed, messages = process.wait()
    assert status == 0, messages
    assert "worker 0 ended with status -9" in messages or "worker 1 ended with status -9" in messages
    # It was told to end, and whoever adopted it may not have noticed yet.
    deadline = time.monotonic() + 20
    while Path(f"/proc/{trial}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{trial}").exists()

    rows = table(out)
    assert list(rows[0]) == COLUMNS
    assert [(row["trial"], row["state"], row["seed"], row["value"][:5]) for row in rows] == [
        ("0", "complete", "93", "93.16"),
        ("1", "complete", "1", "1.166"),
        ("2", "failed", "91", ""),
        ("3", "complete", "2", "2.166"),
        ("4", "complete", "5", "5.166"),
        ("5", "complete", "4", "4.166"),
    ]
    assert rows[2]["reason"] == "status 1: the data file is not there"
    # The trial whose worker was killed went on from its checkpoint in a second attempt; each of the others ran once.
    assert [row["attempts"] for row in rows] == ["2", "1", "1", "1", "1", "1"]
    assert [len(names) for names in starts(out).values()] == [2, 1, 1, 1, 1, 1]
    assert "best: trial 1" in printed and "5 complete, 1 failed" in printed
    page = (out / "report.html").read_text()
    assert "What was tried and what came of it" in page and "How they learnt" in page


@pytest.mark.slow
def test_a_killed_sweep_is_continued_and_nothing_finished_runs_again(tmp_path, run):
    out = tmp_path / "out"
    overrides = definition(out)["overrides"] | {"epochs": 8, "batch_size": 1}
    sweep = definition(out, overrides=overrides, grid={"seed": [93, 1, 2]})
    process = Running(tmp_path, sweep)
    worker, _ = waiting_trial(process.pid, out)
    process.kill()
    process.wait()
    # Without its manager a worker lets its trial save, and ends.
    wait_for(lambda: not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text())
    rows = run(sweep, resume=True)
    assert [(row["state"], row["value"]) for row in rows] == [
        ("complete", 93.125),
        ("complete", 1.125),
        ("complete", 2.125),
    ]
    assert [row["attempts"] for row in rows] == [2, 1, 1]
    before = starts(out)
    assert [len(names) for names in before.values()] == [2, 1, 1]
    assert run(sweep, resume=True) == rows
    assert starts(out) == before


def test_a_killed_trial_is_tried_again_as_often_as_retries_says(tmp_path):
    out = tmp_path / "out"
    overrides = definition(out)["overrides"] | {"epochs": 100_000, "batch_size": 5}
    process = Running(tmp_path, definition(out, overrides=overrides, grid={"seed": [3]}, retries=1))
    (worker,) = wait_for(lambda: children(process.pid, "medcap.sweep.worker"))
    for attempt in (1, 2):
        wait_for(lambda attempt=attempt: len(starts(out).get("0000", [])) == attempt)
        kill(wait_for(lambda: children(worker, "medcap.pipeline.launch"))[0])
    status, _, messages = process.wait()
    assert status == 2
    assert messages.splitlines()[-1] == "medcap: every trial failed; the first: killed by SIGKILL"
    assert [(row["state"], row["attempts"]) for row in table(out)] == [("failed", "2")]


@pytest.mark.slow
def test_a_stopped_sweep_saves_ends_and_continues(tmp_path, run):
    out = tmp_path / "out"
    overrides = definition(out)["overrides"] | {"epochs": 20, "batch_size": 1}
    sweep = definition(out, overrides=overrides, grid={"seed": [93]}, retries=0)
    process = Running(tmp_path, sweep)
    waiting_trial(process.pid, out)
    process.kill(signal.SIGTERM)
    status, _, messages = process.wait()
    assert status == 143
    assert "the same command goes on with what is left" in messages
    (row,) = table(out)
    assert (row["state"], row["reason"]) == ("failed", "its worker was asked to stop")
    assert json.loads((out / "trials/0000/checkpoint.json").read_text()) == 2
    (row,) = run(sweep)
    assert (row["state"], row["value"], row["attempts"]) == ("complete", 93.05, 2)
    steps = [json.loads(line)["step"] for line in (out / "trials/0000/log/metrics.jsonl").open()]
    assert steps == list(range(1, 21))


@pytest.mark.slow
def test_several_managers_share_a_grid_and_run_each_combination_once(tmp_path):
    out = tmp_path / "out"
    grid = {"seed": [1, 2, 3, 4], "epochs": [1, 2]}
    overrides = {"batch_size": 1, "validation_source": "held_out.json"}
    sweep = definition(out, overrides=overrides, grid=grid)
    processes = [Running(tmp_path, sweep, "--workers", "2") for _ in range(2)]
    for process in processes:
        status, _, messages = process.wait()
        assert status == 0, messages
    rows = table(out)
    assert [(row["seed"], row["epochs"]) for row in rows] == [(seed, n) for seed in "1234" for n in "12"]
    assert {row["state"] for row in rows} == {"complete"}
    assert list(starts(out).values()) == [[TRAIN]] * 8


@pytest.mark.slow
def test_pruning_stops_a_bad_trial_early(tmp_path, run):
    out = tmp_path / "out"
    pruner = {"_component_": "optuna.pruners.ThresholdPruner", "upper": 5.0, "n_warmup_steps": 2}
    overrides = definition(out)["overrides"] | {"epochs": 40, "batch_size": 1}
    rows = run(definition(out, overrides=overrides, grid={"seed": [1, 93]}, pruner=pruner))
    assert [(row["state"], row["value"]) for row in rows] == [("complete", 1.025), ("pruned", None)]
    assert rows[1]["reason"].startswith("pruned at step 2: validation_loss 93.")
    assert rows[1]["step"] == 2
    assert rows[1]["attempts"] == 1


@pytest.mark.slow
def test_a_task_score_is_maximised_after_a_second_run(tmp_path, run):
    out = tmp_path / "out"
    test = {"config": "medcap/tiny/generation", "overrides": {"test_vqa": True, "dataset_source": "test.json"}}
    objective = {"metric": "vqa.scores.accuracy", "direction": "maximize"}
    rows = run(definition(out, test=test, objective=objective))
    assert [(row["state"], row["value"]) for row in rows] == [("complete", 0.3), ("complete", 0.1), ("complete", 0.2)]
    assert list(starts(out).values()) == [[TRAIN, TEST]] * 3
    assert "vqa.scores.accuracy 0.3" in (out / "report.html").read_text()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_a_failure_with_its_reason(tmp_path, run):
    out = tmp_path / "out"
    rows = run(definition(out, grid={"seed": [92, 1]}))
    assert [row["state"] for row in rows] == ["failed", "complete"]
    assert rows[0]["reason"] == f"the last validation_loss in {out}/trials/0000/log/metrics.jsonl is not finite"


@pytest.mark.slow
def test_failed_trials_are_tried_again_only_when_asked(tmp_path, run):
    out = tmp_path / "out"
    sweep = definition(out, grid={"seed": [91, 1]})
    run(sweep)
    assert [row["attempts"] for row in run(sweep)] == [1, 1]
    assert [row["attempts"] for row in run(sweep, retry_failed=True)] == [2, 1]


@pytest.mark.slow
def test_a_search_stays_in_its_space_and_grows(tmp_path, run):
    out = tmp_path / "out"
    space = {"seed": {"low": 1, "high": 9}, "clip_grad_norm": [0.5, None]}
    sweep = definition(out, grid=None, search=space, trials=3)
    rows = run(sweep)
    assert all(1 <= row["seed"] <= 9 and row["clip_grad_norm"] in ("0.5", "null") for row in rows)
    assert run({**sweep, "trials": 4})[:3] == rows
    assert len(table(out)) == 4


def test_another_sweep_in_the_same_folder_is_refused(tmp_path, run):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="holds no sweep to go on with: leave --resume out"):
        run(definition(out), resume=True)
    run(definition(out, grid={"seed": [1]}))
    with pytest.raises(UserError, match="was started with another grid: restore it, or choose another output_dir"):
        run(definition(out))


def test_a_missing_optuna_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'medcap\[sweep\]'"):
        medcap.sweep.run(definition(tmp_path))


def test_each_worker_gets_gpus_of_its_own(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(manager, "visible_devices", lambda: ["0", "1", "2", "3"])
    assert manager.worker_environments(None, 2) == [
        {"CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "2"},
        {"CUDA_VISIBLE_DEVICES": "2,3", "OMP_NUM_THREADS": "2"},
    ]
    with pytest.raises(UserError, match="5 workers of 1 processes need 5 GPUs, there are 4"):
        manager.worker_environments(5, 1)
    monkeypatch.setattr(manager, "visible_devices", list)
    assert manager.worker_environments(3, 1) == [{"OMP_NUM_THREADS": "2"}] * 3


def test_devices_keep_the_names_that_the_user_gave(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, MIG-7")
    assert manager.visible_devices() == ["3", "MIG-7"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert manager.visible_devices() == ["0", "1"]


def test_launch_does_not_start_without_its_parent():
    done = subprocess.run(
        [sys.executable, "-m", "medcap.pipeline.launch", "tune", "run"],
        env=os.environ | {"MEDCAP_PARENT": "1", "PYTHONPATH": str(STAND_IN)},
    )
    assert done.returncode == 143


def test_a_table_that_cannot_be_written_does_not_end_the_trials(tmp_path, run, capsys):
    out = tmp_path / "out"
    (out / "results.csv").mkdir(parents=True)
    sweep = definition(out, grid={"seed": [1]})
    with pytest.raises(UserError, match=r"results.csv and report.html in .* cannot be written: .*; make room"):
        run(sweep)
    (out / "results.csv").rmdir()
    assert [(row["state"], row["attempts"]) for row in run(sweep)] == [("complete", 1)]
