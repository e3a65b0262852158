"""Pipelines with a stand-in for ``tune``: what runs, what is left out, what an interrupted one goes on with."""

import json
import os
import signal

import pytest
import yaml

from helpers.sweeps import STAND_IN, Running, children, kill, starts
from helpers.waiting import wait_for
from medcap.errors import UserError
from medcap.locks import hold
from medcap.pipeline.run import run_pipeline

pytestmark = pytest.mark.processes

TRAIN, TEST = "full_finetune_single_device", "generate"


def content(folder, seed=3, **overrides):
    """Two trainings and a test."""
    stages = {}
    for number, name in enumerate(("align", "instruct")):
        stages[name] = {
            "config": "medcap/tiny/single_device",
            "overrides": {"epochs": 4, "batch_size": 1, "seed": seed + number, **overrides},
        }
    stages["instruct"]["overrides"]["init_from"] = "${stages.align.output_dir}"
    stages["ask"] = {
        "recipe": "medcap/recipes/generate",
        "config": "medcap/tiny/generation",
        "output_dir": "${stages.instruct.output_dir}",
        "overrides": {"vision_checkpoint": "${.output_dir}", "test_vqa": True, "dataset_source": "vqa.json"},
    }
    stages["ask"]["overrides"]["vision_checkpoint"] = "${stages.instruct.output_dir}"
    return {"output_dir": str(folder), "stages": stages}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a pipeline whose recipes are the stand-in's."""
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))

    def start(definition, *words, **options):
        path = tmp_path / "pipeline.yaml"
        path.write_text(yaml.safe_dump(definition, sort_keys=False))
        return run_pipeline(path, words, **options)

    return start


def test_the_stages_run_once_and_what_has_changed_runs_again_when_asked(tmp_path, run, capsys):
    out = tmp_path / "out"
    assert list(run(content(out))) == ["align", "instruct", "ask"]
    printed = capsys.readouterr().out
    assert "vqa: accuracy 0.400" in printed and str(out / "align") in printed
    assert starts(out) == {"align": [TRAIN], "instruct": [TRAIN, TEST]}
    run(content(out))
    assert starts(out) == {"align": [TRAIN], "instruct": [TRAIN, TEST]}
    changed = content(out) | {"output_dir": str(out)}
    changed["stages"]["instruct"]["overrides"]["seed"] = 7
    with pytest.raises(UserError, match=r"stage instruct was run with other settings.*--redo to run it again"):
        run(changed)
    run(changed, redo=True)
    assert starts(out) == {"align": [TRAIN], "instruct": [TRAIN, TEST]}  # its folder was removed
    assert json.loads((out / "instruct/vqa/metrics.json").read_text())["scores"]["accuracy"] == 0.7
    (out / "align/summary.json").unlink()
    run(changed)
    assert starts(out)["align"] == [TRAIN, TRAIN]


def test_a_stage_that_fails_ends_the_pipeline_and_is_tried_again(tmp_path, run):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"stage instruct ended with status 1; its own message is above"):
        run(content(out, seed=90))
    assert starts(out) == {"align": [TRAIN], "instruct": [TRAIN]}
    with pytest.raises(UserError, match="stage instruct ended with status 1"):
        run(content(out, seed=90))
    assert starts(out) == {"align": [TRAIN], "instruct": [TRAIN, TRAIN]}
    # The stage left no checkpoint, so the file may be corrected and run again without --redo.
    mended = content(out, seed=90)
    mended["stages"]["instruct"]["overrides"]["seed"] = 4
    assert list(run(mended)) == ["align", "instruct", "ask"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_pipeline_goes_on_in_the_middle_of_its_stage(tmp_path, number):
    out = tmp_path / "out"
    # Seed 93 waits after step 2 of its first start until it is asked to stop.
    process = Running(tmp_path, content(out, seed=92 if number == signal.SIGINT else 93), command="run")
    stage = "instruct" if number == signal.SIGINT else "align"
    checkpoint = out / stage / "checkpoint.json"
    wait_for(lambda: checkpoint.exists() and checkpoint.read_text() == "2")
    (child,) = children(process.pid, "medcap.pipeline.launch")
    process.kill(number)
    status, _, messages = process.wait()
    assert status == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number], messages
    if number != signal.SIGKILL:
        assert f"stage {stage} was asked to stop; give the same command again to continue" in messages
    wait_for(lambda: not os.path.exists(f"/proc/{child}"))
    again = Running(tmp_path, content(out, seed=92 if number == signal.SIGINT else 93), command="run")
    status, printed, messages = again.wait()
    assert status == 0, messages
    assert starts(out)[stage][:2] == [TRAIN, TRAIN] and "vqa: accuracy" in printed
    assert f"{stage}] tune run" in messages and "resume_from_checkpoint=latest" in messages
    steps = [json.loads(line)["step"] for line in (out / stage / "log/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_a_stage_that_is_killed_is_named(tmp_path):
    out = tmp_path / "out"
    process = Running(tmp_path, content(out, seed=93), command="run")
    checkpoint = out / "align/checkpoint.json"
    wait_for(lambda: checkpoint.exists() and checkpoint.read_text() == "2")
    kill(children(process.pid, "medcap.pipeline.launch")[0])
    status, _, messages = process.wait()
    assert status == 2
    assert messages.splitlines()[-1].startswith("medcap: stage align was ended by SIGKILL; its own message is above")


def test_two_at_once_are_refused_and_a_damaged_memory_is_named(tmp_path, run):
    out = tmp_path / "out"
    with hold(out / ".pipeline.lock"), pytest.raises(UserError, match="another process runs this pipeline"):
        run(content(out))
    (out / "stages.json").write_text("{")
    with pytest.raises(UserError, match=r"stages.json is damaged: remove it"):
        run(content(out))
