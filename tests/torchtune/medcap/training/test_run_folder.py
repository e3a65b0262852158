import json
import signal
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from medcap.checkpoints.atomic import MARKER
from medcap.errors import UserError
from medcap.training.run_folder import RunFolder
from medcap.training.world import World, single_world

ALONE = single_world(torch.device("cpu"))
HOLDER = """
import sys, torch
from omegaconf import OmegaConf
from medcap.training.run_folder import RunFolder
from medcap.training.world import single_world
folder = RunFolder(OmegaConf.create({"output_dir": sys.argv[1], "checkpointer": {"output_dir": None},
    "metric_logger": None, "resume_from_checkpoint": False}), single_world(torch.device("cpu")))
print("holds", flush=True)
sys.stdin.read()
"""


def config(path, **changes):
    keys = {"output_dir": str(path), "checkpointer": {"output_dir": None}, "metric_logger": None}
    return OmegaConf.create({**keys, "resume_from_checkpoint": "latest", **changes})


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


def test_other_processes_write_nothing_and_go_on_from_what_the_main_one_found(tmp_path, monkeypatch):
    world = World(1, 2, 1, 2, torch.device("cpu"))
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


def test_a_folder_belongs_to_one_run_until_its_process_is_gone(tmp_path):
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
