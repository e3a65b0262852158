import pytest
import torch
from omegaconf import OmegaConf

from helpers.vision_checkpoints import write_open_clip_folder
from helpers.workspace import Workspace
from medcap.checkpoints.vision import plan_vision
from medcap.errors import UserError
from medcap.probe.encoders import load_encoders
from medcap.training import finetune_recipe as setup

PIXELS = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and the parameters that its recipe began from."""
    workspace = Workspace(tmp_path_factory.mktemp("probe"))
    began = {}
    prepare = setup.prepare_model

    def observed(model, cfg):
        for part in ("tower", "projector"):
            state = getattr(model, part).state_dict()
            began.update({f"{part}.{name}": value.clone() for name, value in state.items()})
        return prepare(model, cfg)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "prepare_model", observed)
        run = workspace.train("seed=11", "optimizer.lr=0.01", "epochs=3")
    return run, began


def state(encoder):
    parts = {"tower": encoder.tower, "projector": encoder.projector}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}


def test_before_is_what_the_recipe_began_from_bit_for_bit(trained):
    run, began = trained
    encoders = load_encoders(str(run))
    before, after = state(encoders.before), state(encoders.after)
    assert set(before) == set(began)
    assert all(torch.equal(before[name], value) for name, value in began.items())
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("qkv.weight"))
    assert encoders.before.name == "tiny, random weights of seed 11"
    assert encoders.features == "patches" and encoders.notices == []


@pytest.mark.slow
def test_features_are_means_of_what_the_model_gives(trained):
    run, _ = trained
    own = load_encoders(str(run)).after
    tower, projector = own.tower, own.projector
    images = own.preprocess.normalize(PIXELS)
    with torch.no_grad():
        patches = tower.encode_patches(images)
        expected = {
            "patches": patches.mean(dim=1),
            "pooled": tower.encode_pooled(images),
            "projected": projector(patches).mean(dim=1),
        }
    for features, values in expected.items():
        assert torch.equal(load_encoders(str(run), features).after(PIXELS), values)


@pytest.mark.slow
def test_an_earlier_run_is_the_start_of_one_that_names_it(trained, tmp_path):
    run, _ = trained
    later = tmp_path / "later"
    (later / "checkpoint").mkdir(parents=True)
    (later / "checkpoint/step_000001").symlink_to(next((run / "checkpoint").glob("step_*")), target_is_directory=True)
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.vision, cfg.vision_checkpoint, cfg.checkpointer.output_dir = None, str(run), None
    OmegaConf.save(cfg, later / "config.yaml")
    encoders = load_encoders(str(later))
    own, first = state(load_encoders(str(run)).after), state(encoders.before)
    assert encoders.before.name == str(run)
    assert all(torch.equal(first[name], value) for name, value in own.items())


@pytest.mark.slow
def test_a_bare_checkpoint_has_no_before_unless_one_is_named(trained, tmp_path):
    run, _ = trained
    step = next((run / "checkpoint").glob("step_*"))
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("vision.json", "vision.safetensors"):
        (bare / name).write_bytes((step / name).read_bytes())
    encoders = load_encoders(str(bare))
    assert encoders.before is None and "has no config.yaml" in encoders.notices[0]
    assert load_encoders(str(bare), before=str(run)).before.name == str(run)
    assert load_encoders(str(run), before="none").before is None


@pytest.mark.slow
def test_base_encoders_can_be_compared_too(tmp_path):
    write_open_clip_folder(tmp_path / "base")
    encoders = load_encoders(str(tmp_path / "base"))
    assert encoders.features == "patches" and encoders.before is None and encoders.checkpoint is None
    expected = plan_vision(str(tmp_path / "base"), None, {"_component_": "medcap.models.mlp"}, 16).build()[0].eval()
    pixels = torch.zeros(1, 3, 160, 160, dtype=torch.uint8)
    with torch.no_grad():
        patches = expected.encode_patches(expected.preprocess.normalize(pixels))
    assert torch.equal(encoders.after(pixels), patches.mean(dim=1))
    with pytest.raises(UserError, match="is a base encoder without a projector; use patches or pooled"):
        load_encoders(str(tmp_path / "base"), "projected")


def test_a_missing_start_is_named(trained, tmp_path):
    run, _ = trained
    with pytest.raises(UserError, match=r"the encoder before tuning: .*nowhere.* \(--before NAME, FOLDER or none\)"):
        load_encoders(str(run), before="./nowhere")
