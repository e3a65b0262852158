import os
import random
import resource
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medcap.checkpoints.atomic import atomic_folder, is_complete, latest_checkpoint
from medcap.checkpoints.tensor_tree import load_tree, save_tree
from medcap.checkpoints.vision import plan_vision
from medcap.errors import UserError
from medcap.files import write_text
from medcap.training.reliability import checkpointing
from medcap.training.reliability.checkpointing import (
    Position,
    RunCheckpoints,
    check_writable,
    find_resume_folder,
    random_state,
    set_random_state,
)

TINY = {"name": "tiny", "image_size": 32, "width": 32, "depth": 1, "heads": 2, "pooled_dim": 12}
POOLED = {"_component_": "medcap.models.pooled_mlp", "num_image_tokens": 3}
LLM = {"fingerprint": "0123456789abcdef", "dim": 16, "component": "torchtune.models.llama3_1.llama3_1_8b"}


@pytest.fixture
def model():
    return make_model(seed=0)


def make_model(seed):
    torch.manual_seed(seed)
    tower, projector = plan_vision(TINY, None, POOLED, 16).build()
    return SimpleNamespace(tower=tower, projector=projector, components={"vision": tower, "projector": projector})


def save(checkpoints, step, model, state=None, **options):
    checkpoints.save(step, model.components.values(), state or {"step": step}, **options)
    checkpoints.finish()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def same_weights(left, right):
    return all(
        torch.equal(one, other)
        for part in ("tower", "projector")
        for one, other in zip(
            getattr(left, part).state_dict().values(), getattr(right, part).state_dict().values(), strict=True
        )
    )


def test_a_checkpoint_has_its_files_and_restores_model_and_state(tmp_path, model):
    checkpoints = RunCheckpoints(tmp_path, LLM)
    state = {
        "position": vars(Position(120, 1, 7)),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        "none": None,
    }
    save(checkpoints, 120, model, state)
    folder = tmp_path / "step_000120"
    assert names(tmp_path) == ["latest", "step_000120"]
    assert names(folder) == ["COMPLETE", "state", "vision.json", "vision.safetensors"]
    assert names(folder / "state") == ["state.json", "state.safetensors"]
    assert os.readlink(tmp_path / "latest") == "step_000120"
    assert checkpoints.messages()[0].startswith(f"saved {folder} (")

    other = make_model(seed=1)
    assert not same_weights(model, other)
    restored = checkpoints.restore(folder, other)
    assert same_weights(model, other)
    assert Position(**restored["position"]) == Position(step=120, epoch=1, unit=7)
    assert torch.equal(restored["optimizer"]["state"][0]["exp_avg"], torch.ones(3)) and restored["none"] is None


def test_the_saved_folder_is_a_vision_checkpoint(tmp_path, model):
    save(RunCheckpoints(tmp_path, LLM), 1, model)
    plan = plan_vision(None, str(tmp_path), {}, 16)
    tower, projector = plan.build()
    assert same_weights(model, SimpleNamespace(tower=tower, projector=projector)) and plan.llm == LLM


@pytest.mark.slow
def test_what_changes_after_save_returns_is_not_in_the_files(tmp_path, model, monkeypatch):
    # The write begins late, when the training has gone on.
    monkeypatch.setattr(checkpointing, "save_components", lambda *given: (time.sleep(0.2), REAL_SAVE(*given)))
    before = make_model(seed=0)
    checkpoints, moment = RunCheckpoints(tmp_path, LLM), torch.ones(4)
    checkpoints.save(1, model.components.values(), {"moment": moment})
    with torch.no_grad():
        for parameter in (*model.tower.parameters(), *model.projector.parameters(), moment):
            parameter.add_(1)
    checkpoints.save(2, model.components.values(), {"moment": moment})
    checkpoints.finish()
    first, second = make_model(seed=5), make_model(seed=5)
    assert torch.equal(checkpoints.restore(tmp_path / "step_000001", first)["moment"], torch.ones(4))
    assert same_weights(first, before)
    assert torch.equal(checkpoints.restore(tmp_path / "step_000002", second)["moment"], 2 * torch.ones(4))
    assert same_weights(second, model)


REAL_SAVE = checkpointing.save_components


def test_only_the_last_ones_are_kept(tmp_path, model):
    checkpoints = RunCheckpoints(tmp_path, LLM, keep_last=2)
    for step in (1, 2, 3):
        save(checkpoints, step, model)
    assert names(tmp_path) == ["latest", "step_000002", "step_000003"]


def test_what_was_just_written_stays_although_later_steps_are_there(tmp_path, model):
    for step in (50, 60, 70):
        save(RunCheckpoints(tmp_path, LLM), step, model)
    resumed = RunCheckpoints(tmp_path, LLM, keep_last=2)
    save(resumed, 55, model)
    assert names(tmp_path) == ["latest", "step_000055", "step_000070"]
    assert latest_checkpoint(tmp_path).name == "step_000055"
    save(resumed, 60, model)
    assert names(tmp_path) == ["latest", "step_000055", "step_000060"]


def test_a_full_disk_is_reported_the_run_continues_and_old_checkpoints_stay(tmp_path, model):
    checkpoints = RunCheckpoints(tmp_path, LLM, keep_last=1)
    save(checkpoints, 1, model)
    checkpoints.messages()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "step_000001" / "vision.safetensors").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))  # stands in for a full disk: EFBIG in every write
    try:
        checkpoints.save(2, model.components.values(), {"step": 2})
        with pytest.raises(UserError, match=r"step 2, could not be written \(File too large: .*resume_from_checkpoint"):
            checkpoints.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = checkpoints.messages()
    assert line.startswith("step 2: the checkpoint could not be written (File too large: ")
    assert names(tmp_path) == ["latest", "step_000001"] and is_complete(tmp_path / "step_000001")
    save(checkpoints, 3, model)
    assert names(tmp_path) == ["latest", "step_000003"]


def test_a_folder_that_becomes_a_file_is_reported(tmp_path, model):
    checkpoints = RunCheckpoints(tmp_path / "checkpoint", LLM)
    (tmp_path / "checkpoint").write_text("in the way")
    checkpoints.save(2, model.components.values(), {})
    with pytest.raises(UserError, match=r"step 2, could not be written \((Not a directory|File exists): "):
        checkpoints.finish()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_reported(tmp_path, model):
    checkpoints = RunCheckpoints(tmp_path / "checkpoint", LLM)
    (tmp_path / "checkpoint").mkdir(mode=0o500)
    checkpoints.save(2, model.components.values(), {})
    with pytest.raises(UserError, match="Permission denied"):
        checkpoints.finish()
    with pytest.raises(UserError, match="Permission denied"):
        check_writable(tmp_path / "checkpoint")


def test_an_old_folder_that_cannot_be_removed_is_reported(tmp_path, model, monkeypatch):
    checkpoints = RunCheckpoints(tmp_path, LLM, keep_last=1)
    save(checkpoints, 1, model)
    checkpoints.messages()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpointing, "remove_folder", refuse)
    save(checkpoints, 2, model)
    assert checkpoints.messages()[1] == (
        f"an old checkpoint could not be removed (Permission denied: {tmp_path / 'step_000001'})"
    )


def test_state_that_cannot_be_written_is_refused_at_once(tmp_path, model):
    checkpoints = RunCheckpoints(tmp_path, LLM)
    with pytest.raises(UserError, match="state/optimizer/0: a value of type object"):
        checkpoints.save(1, model.components.values(), {"optimizer": [object()]})


def test_medcaps_file_is_written_before_the_folder_of_its_epoch(tmp_path, model, monkeypatch):
    checkpoints = RunCheckpoints(tmp_path, LLM)
    there = []
    monkeypatch.setattr(
        checkpointing, "save_components", lambda *given: (there.extend(names(tmp_path)), REAL_SAVE(*given))
    )
    save(checkpoints, 4, model, meta_model_epoch=2)
    assert "meta_model_2.pt" in there
    content = torch.load(tmp_path / "meta_model_2.pt", weights_only=True)
    assert torch.equal(content["projector"]["0.bias"], model.projector.state_dict()["0.bias"].bfloat16())


def test_leftovers_of_a_killed_run_are_removed_and_nothing_else(tmp_path, model):
    save(RunCheckpoints(tmp_path, LLM), 1, model)
    (tmp_path / ".step_000002.partial" / "state").mkdir(parents=True)
    (tmp_path / ".meta_model_1.pt.partial").write_text("half")
    (tmp_path / ".latest.partial").symlink_to("step_000002")
    (tmp_path / ".mine.partial").write_text("not ours")
    RunCheckpoints(tmp_path, LLM, is_main=False)
    assert ".step_000002.partial" in names(tmp_path)
    RunCheckpoints(tmp_path, LLM)
    assert names(tmp_path) == [".mine.partial", "latest", "step_000001"]


def test_a_folder_that_was_being_replaced_when_the_run_was_killed_comes_back(tmp_path, model):
    save(RunCheckpoints(tmp_path, LLM), 1, model)
    (tmp_path / "step_000001").rename(tmp_path / ".step_000001.outdated")
    assert find_resume_folder("latest", tmp_path) == tmp_path / "step_000001"
    (tmp_path / ".step_000001.outdated").mkdir()
    RunCheckpoints(tmp_path, LLM)
    assert names(tmp_path) == ["latest", "step_000001"]


@pytest.mark.processes
@pytest.mark.slow
def test_a_run_killed_while_it_writes_leaves_complete_checkpoints(tmp_path, tmp_path_factory, server):
    printed = tmp_path_factory.mktemp("printed")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import pathlib, torch\nfrom test_checkpointing import *\n"
        f"model, folder = make_model(0), pathlib.Path({str(tmp_path)!r})\n"
        "checkpoints = RunCheckpoints(folder, LLM, keep_last=2)\n"
        "for step in range(1, 100000):\n"
        "    state = {'step': step, 'large': torch.full((5000,), step)}\n"
        "    checkpoints.save(step % 3, model.components.values(), state)\n"
        "    print(step, flush=True)\n"
    )
    generator = random.Random(0)
    process = server.program(printed / "steps", code)
    assert process.lines(20)[-1] == "20", process.errors.read_text()
    time.sleep(generator.random() / 20)
    assert process.end(signal.SIGKILL) == -signal.SIGKILL
    folder, model = find_resume_folder("latest", tmp_path), make_model(1)
    state = RunCheckpoints(tmp_path, LLM).restore(folder, model)
    assert state["step"] >= 18 and torch.equal(state["large"], torch.full((5000,), state["step"]))
    assert same_weights(model, make_model(0))
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())
    assert all(is_complete(path) for path in tmp_path.glob("step_*"))


def test_restore_says_what_is_missing_or_does_not_fit(tmp_path, model):
    checkpoints = RunCheckpoints(tmp_path, LLM)
    save(checkpoints, 1, model)
    folder = tmp_path / "step_000001"
    wider = plan_vision({**TINY, "width": 64}, None, POOLED, 16).build()
    with pytest.raises(UserError, match=r"vision of .*step_000001 does not fit this model: .*size mismatch") as caught:
        checkpoints.restore(folder, SimpleNamespace(components=dict(zip(("vision", "projector"), wider, strict=True))))
    assert "\n" not in str(caught.value)
    (folder / "vision.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"resume_from_checkpoint: .*vision.safetensors is missing or damaged"):
        checkpoints.restore(folder, model)
    (folder / "state" / "state.json").unlink()
    with pytest.raises(UserError, match=r"step_000001 holds no training state, .*vision_checkpoint="):
        checkpoints.restore(folder, model)
    write_text(folder / "state" / "training_state.pt", "torch.save")
    with pytest.raises(UserError, match=r"keeps its state in state/training_state.pt, an older format"):
        checkpoints.restore(folder, model)


def test_which_folder_a_resume_means(tmp_path):
    assert find_resume_folder(False, tmp_path) is None
    assert find_resume_folder(True, tmp_path) is None and find_resume_folder("latest", tmp_path / "none") is None
    for step in (3, 20):
        with atomic_folder(tmp_path / f"step_{step:06d}"):
            pass
    assert find_resume_folder("latest", tmp_path) == find_resume_folder(True, tmp_path) == tmp_path / "step_000020"
    assert find_resume_folder(str(tmp_path / "step_000003"), tmp_path) == tmp_path / "step_000003"
    (tmp_path / "step_000003" / "COMPLETE").unlink()
    with pytest.raises(UserError, match=r"step_000003 is not a complete checkpoint folder"):
        find_resume_folder(str(tmp_path / "step_000003"), tmp_path)


def test_a_folder_that_cannot_be_written_to_is_found_before_the_run(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "checkpoint")
    assert names(tmp_path / "new" / "checkpoint") == []
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "checkpoint"):
        with pytest.raises(UserError, match=f"output_dir={path} cannot be a folder: a file is in the way"):
            check_writable(path)

    def refuse(self, content):
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=r"log_dir=.* cannot be written to \(Read-only file system\)"):
        check_writable(tmp_path, "log_dir")


def test_random_generators_continue_where_they_were(tmp_path):
    def draw():
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()

    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    draw()
    save_tree(tmp_path, "random", random_state())
    following = [draw() for _ in range(3)]
    random.seed(4), np.random.seed(5), torch.manual_seed(6)
    set_random_state(load_tree(tmp_path, "random"))
    assert [draw() for _ in range(3)] == following
