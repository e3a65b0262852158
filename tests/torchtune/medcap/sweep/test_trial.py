import signal

import pytest

from helpers.sweeps import definition
from medcap.sweep.definition import read_definition
from medcap.sweep.trial import _failure, commands


def test_the_commands_of_a_trial(tmp_path):
    test = {"config": "medcap/tiny/generation", "overrides": {"test_vqa": True}}
    sweep = definition(tmp_path, overrides={"epochs": 2}, test=test, processes_per_trial=2)
    folder = tmp_path / "trials" / "0001"
    assert commands(read_definition(sweep), folder, {"seed": "7"}) == [
        [
            "tune",
            "run",
            "--nproc_per_node",
            "2",
            "medcap/recipes/full_finetune_single_device",
            "--config",
            "medcap/tiny/single_device",
            "epochs=2",
            "seed=7",
            f"output_dir={folder}",
            "resume_from_checkpoint=latest",
        ],
        [
            "tune",
            "run",
            "medcap/recipes/generate",
            "--config",
            "medcap/tiny/generation",
            "test_vqa=true",
            f"output_dir={folder}",
            f"vision_checkpoint={folder}",
        ],
    ]


@pytest.mark.parametrize(
    ("status", "printed", "outcome", "reason"),
    [
        (-signal.SIGKILL, "", "killed", "killed by SIGKILL"),
        (128 + signal.SIGTERM, "", "killed", "killed by SIGTERM"),
        (
            2,
            "a\nmedcap: batch_size=0 must be at least 1\nlater\n",
            "failed",
            "status 2: batch_size=0 must be at least 1",
        ),
        (1, "Traceback\n  here\nValueError: a bug\n\n", "failed", "status 1: ValueError: a bug"),
        (1, "", "failed", "status 1: it printed nothing"),
    ],
)
def test_a_failure_is_reported_by_its_last_words(tmp_path, status, printed, outcome, reason):
    (tmp_path / "output.txt").write_text(printed)
    end = _failure(status, tmp_path / "output.txt")
    assert (end.state.name, end.outcome, end.reason) == ("FAIL", outcome, reason)
