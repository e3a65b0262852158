import json
import signal
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from medcap.checkpoints.atomic import MARKER
from medcap.checkpoints.keys import CheckpointerSection
from medcap.errors import UserError
from medcap.training.distributed.context import DistributedContext, single_world
from medcap.training.keys import TrainingConfiguration
from medcap.training.reliability.run_folder import RunFolder

ALONE = single_world(torch.device("cpu"))
HOLDER = """
import sys, torch
from medcap.checkpoints.keys import CheckpointerSection
from medcap.training.distributed.context import single_world
from medcap.training.keys import TrainingConfiguration
from medcap.training.reliability.run_folder import RunFolder
folder = RunFolder(
    TrainingConfiguration.model_construct(
        output_dir=sys.argv[1], checkpointer=CheckpointerSection.model_construct()
    ),
    single_world(torch.device("cpu")),
)
print("holds", flush=True)
sys.stdin.read()
"""


def config(path, **changes):
    keys = {"output_dir": str(path), "checkpointer": {}, "resume_from_checkpoint": "latest"} | changes
    keys["checkpointer"] = CheckpointerSection.model_construct(**keys["checkpointer"])
    return TrainingConfiguration.model_construct(**keys)


def complete(folder):
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
    return folder


def test_the_folder_holds_the_configuration_the_log_and_the_summary(tmp_path):
    folder = RunFolder(config(tmp_path / "run"), ALONE)
    assert folder.resume_from is None
    (logger,) = folder.begin(0)
    logger.log_dict({"loss": 1.5}, step=1)
    logger.close()
    folder.end({"steps": 1})
    assert json.loads((tmp_path / "run" / "log" / "metrics.jsonl").read_text())["loss"] == 1.5
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == {"steps": 1}
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").resume_from_checkpoint == "latest"
    # A longer run goes on there: nobody may take the summary of the shorter one for its own.
    for logger in RunFolder(config(tmp_path / "run"), ALONE).begin(1):
        logger.close()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_folders_of_their_own_for_checkpoints_and_logs(tmp_path):
    logger = {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": str(tmp_path / "logs")}
    folder = RunFolder(
        config(tmp_path / "run", checkpointer={"output_dir": str(tmp_path / "saved")}, metric_logger=logger), ALONE
    )
    assert folder.checkpoints == tmp_path / "saved"
    for made in folder.begin(0):
        made.close()
    assert (tmp_path / "logs" / "metrics.jsonl").is_file()
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_what_the_log_knows_of_later_steps_is_dropped(tmp_path):
    complete(tmp_path / "checkpoint" / "step_000002")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)))
    folder = RunFolder(config(tmp_path), ALONE)
    assert folder.resume_from == tmp_path / "checkpoint" / "step_000002"
    for logger in folder.begin(2):
        logger.close()
    rows = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]


def test_other_processes_write_nothing_and_continue_from_what_the_main_one_found(tmp_path, monkeypatch):
    world = DistributedContext(1, 2, 1, 2, torch.device("cpu"))
    monkeypatch.setattr(world, "gather", lambda value: [str(tmp_path / "found"), value])
    folder = RunFolder(config(tmp_path / "run"), world)
    assert folder.resume_from == tmp_path / "found"
    assert folder.begin(0) == []
    folder.end({"steps": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_named_must_be_complete(tmp_path):
    (tmp_path / "step_000001").mkdir()
    with pytest.raises(UserError, match="step_000001 is not a complete checkpoint folder"):
        RunFolder(config(tmp_path, resume_from_checkpoint=str(tmp_path / "step_000001")), ALONE)


@pytest.mark.processes
@pytest.mark.slow
def test_a_folder_belongs_to_one_run_until_its_process_has_ended(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "holds\n"
        with pytest.raises(UserError, match=f"another run is writing to {tmp_path}/checkpoint: wait for its end"):
            RunFolder(config(tmp_path), ALONE)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        RunFolder(config(tmp_path), ALONE)
    finally:
        holder.kill()
        holder.communicate()


LEFT = ["checkpoint/step_000004/COMPLETE", "checkpoint/step_000004/x", "checkpoint/meta_model_1.pt", "summary.json"]


def leave(path, text="{}"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("name", [*LEFT, "log/metrics.jsonl"])
@pytest.mark.parametrize("resume", [False, None])
def test_a_new_run_is_kept_out_of_the_folder_of_another_one(tmp_path, name, resume):
    leave(tmp_path / "run" / name)
    with pytest.raises(UserError) as error:
        RunFolder(config(tmp_path / "run", resume_from_checkpoint=resume), ALONE)
    assert str(error.value).startswith(f"{tmp_path}/run/")
    for words in (
        "is of an earlier run: ",
        "resume_from_checkpoint=latest",
        "choose another output_dir",
        "remove that run",
    ):
        assert words in str(error.value)
    # Nothing of it is touched.
    assert (tmp_path / "run" / name).read_text() == "{}"


@pytest.mark.parametrize("resume", ["latest", True])
def test_a_run_continues_in_its_own_folder(tmp_path, resume):
    for name in (*LEFT, "log/metrics.jsonl"):
        leave(tmp_path / name)
    folder = RunFolder(config(tmp_path, resume_from_checkpoint=resume), ALONE)
    assert folder.resume_from == tmp_path / "checkpoint" / "step_000004"


def test_a_run_continues_from_one_of_its_own_checkpoints_that_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own, other = complete(tmp_path / "run/checkpoint/step_000002"), complete(tmp_path / "other/checkpoint/step_000002")
    assert RunFolder(config("run", resume_from_checkpoint=str(own)), ALONE).resume_from == own
    with pytest.raises(UserError, match="is of an earlier run, which is not the one that resume_from_checkpoint names"):
        RunFolder(config("run", resume_from_checkpoint=str(other)), ALONE)
    assert RunFolder(config("new", resume_from_checkpoint=str(other)), ALONE).resume_from == other


@pytest.mark.parametrize(
    ("left", "key"),
    [("saved/step_000001/x", "checkpointer.output_dir"), ("logs/metrics.jsonl", "metric_logger.log_dir")],
)
def test_folders_of_their_own_are_named_by_their_keys(tmp_path, left, key):
    leave(tmp_path / left)
    logger = {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": str(tmp_path / "logs")}
    changes = {"checkpointer": {"output_dir": str(tmp_path / "saved")}, "metric_logger": logger}
    with pytest.raises(UserError, match=f"choose another {key}, or remove"):
        RunFolder(config(tmp_path / "run", resume_from_checkpoint=False, **changes), ALONE)


@pytest.mark.parametrize(
    "name", ["caption/metrics.json", "config.yaml", "log/bad_rows.jsonl", "images/a.png", "checkpoint/.lock"]
)
def test_a_folder_with_other_things_in_it_is_taken(tmp_path, name):
    leave(tmp_path / name)
    leave(tmp_path / "log" / "metrics.jsonl", "")
    assert RunFolder(config(tmp_path, resume_from_checkpoint=False), ALONE).resume_from is None


def test_an_imported_run_is_not_written_over(tmp_path):
    leave(tmp_path / "vision.json")
    for resume in (False, "latest"):
        with pytest.raises(UserError, match=f"is of an imported run: .* vision_checkpoint={tmp_path}"):
            RunFolder(config(tmp_path, resume_from_checkpoint=resume), ALONE)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_its_log_over(tmp_path):
    leave(tmp_path / "log" / "metrics.jsonl", '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    (logger,) = RunFolder(config(tmp_path, resume_from_checkpoint="latest"), ALONE).begin(0)
    logger.log_dict({"loss": 3.0}, step=1)
    logger.close()
    rows = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 3.0}]
