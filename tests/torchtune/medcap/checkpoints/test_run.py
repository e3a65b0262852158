import pytest
import yaml

from medcap.checkpoints.run import read_run
from medcap.errors import UserError


@pytest.fixture
def run(tmp_path):
    """A run's folder with two steps; of weights only the description counts here."""
    for step in ("step_000001", "step_000002"):
        folder = tmp_path / "run/checkpoint" / step
        folder.mkdir(parents=True)
        for name in ("vision.json", "vision.safetensors", "COMPLETE"):
            (folder / name).touch()
    config = {
        "output_dir": "elsewhere",
        "llm": {"_component_": "torchtune.models.llama3_2.llama3_2_1b"},
        "tokenizer": {"_component_": "medcap.models.llama3_tokenizer", "path": "llm/tokenizer.model"},
        "checkpointer": {"checkpoint_dir": "llm", "output_dir": None},
        "vision": "siglip",
        "vision_checkpoint": "an/earlier/run",
        "optimizer": {"_component_": "torch.optim.AdamW"},
    }
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return tmp_path / "run"


def test_a_run_gives_its_model_keys_and_its_newest_checkpoint(run):
    cfg = read_run(run)
    assert cfg.llm["_component_"] == "torchtune.models.llama3_2.llama3_2_1b"
    assert cfg.checkpointer.checkpoint_dir == "llm"
    assert cfg.vision is None and cfg.vision_checkpoint == str(run / "checkpoint/step_000002")
    assert not hasattr(cfg, "optimizer") and cfg.llm_weights == "bf16"


def test_what_a_training_left_out_is_not_left_out_of_its_run_again(run):
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"without": ["mask_decoder"]}), encoding="utf-8")
    assert read_run(run).without == []
    assert read_run(run, ["without=[llm_lora]"]).without == ["llm_lora"]


def test_a_step_of_a_run_gives_itself(run):
    assert read_run(run / "checkpoint/step_000001").vision_checkpoint == str(run / "checkpoint/step_000001")


def test_overrides_take_the_place_of_what_the_run_says(run):
    cfg = read_run(run, ["checkpointer.checkpoint_dir=/models/llama", "llm_weights=int8", "device=cpu"])
    assert (cfg.checkpointer.checkpoint_dir, cfg.llm_weights, cfg.device) == ("/models/llama", "int8", "cpu")


def test_checkpoints_that_lie_outside_of_the_run_are_found(run, tmp_path):
    (run / "checkpoint").rename(tmp_path / "apart")
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    config["checkpointer"]["output_dir"] = str(tmp_path / "apart")
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert read_run(run).vision_checkpoint == str(tmp_path / "apart/step_000002")


def test_a_run_that_holds_its_language_model_can_be_moved(run, tmp_path, monkeypatch):
    (run / "llm").mkdir()
    (run / "llm/tokenizer.model").touch()
    run.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    cfg = read_run("moved")
    assert (cfg.checkpointer.checkpoint_dir, cfg.tokenizer["path"]) == ("moved/llm", "moved/llm/tokenizer.model")
    assert read_run("moved", ["tokenizer.path=other"]).tokenizer["path"] == "other"


def test_an_unfinished_step_is_not_taken(run):
    (run / "checkpoint/step_000002/COMPLETE").unlink()
    assert read_run(run).vision_checkpoint.endswith("step_000001")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lr=1", "unknown key optimizer"),
        ("device", "is not an override: write key=value"),
        ("llm_weights=fp4", "llm_weights='fp4' must be one of"),
    ],
)
def test_overrides_that_mean_nothing_are_refused(run, override, words):
    with pytest.raises(UserError, match=words):
        read_run(run, [override])


def test_something_that_is_not_a_run_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="there is no such run"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither vision.json nor a complete checkpoint/step_"):
        read_run(tmp_path / "empty")
    (run / "config.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"config.yaml cannot be read"):
        read_run(run)
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"holds no config.yaml, so its language model is not known"):
        read_run(run)
