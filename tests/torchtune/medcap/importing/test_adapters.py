"""Adapters that PEFT, LLaVA-like trainers and torchtune write, as runs of ours."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torchtune.models.convert_weights import tune_to_peft_adapter_config, tune_to_peft_adapter_weights
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from helpers.llava_parity import CONVERSATIONS, inputs, our_logits
from helpers.llm_checkpoints import random_decoder, tiny_llm, write_hugging_face_llm
from helpers.run_folders import LLAMA3, picture, write_run
from helpers.vision_checkpoints import write_hugging_face_folder
from medcap.checkpoints.build_model import EarlierRun, plan_model
from medcap.checkpoints.run import read_run
from medcap.errors import UserError
from medcap.export.formats import ExportOptions, export_run
from medcap.generation.run import open_run
from medcap.importing.sources import ImportOptions, import_model
from medcap.models.llm_lora import TARGETS
from medcap.models.towers.base import Preprocess

TOKENS = torch.arange(20, 50)[None]
ALL = sorted(TARGETS)


def llava_like(llm: Path) -> LlamaForCausalLM:
    """A Llama that holds a projector where LLaVA and Bunny have it."""
    model = LlamaForCausalLM.from_pretrained(llm)
    torch.manual_seed(1)
    model.model.mm_projector = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32))
    return model


def trained(model: nn.Module, config: LoraConfig) -> PeftModel:
    """The model with adapters that change its answers."""
    peft = get_peft_model(model, config)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.15)
    return peft.eval()


@pytest.fixture
def parts(tmp_path):
    write_hugging_face_llm(tmp_path / "llm", random_decoder(tiny_llm(LLAMA3)))
    clip = write_hugging_face_folder(tmp_path / "clip", "clip", "vision").eval()
    return clip, ImportOptions(vision=str(tmp_path / "clip"), llm=tmp_path / "llm")


def write_llava_trainer(tmp_path: Path, **options) -> PeftModel:
    """What LLaVA's trainer saves of a run with LoRA."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": ALL, "task_type": "CAUSAL_LM", **options})
    peft = trained(llava_like(tmp_path / "llm"), config)
    folder = tmp_path / "lora"
    peft.save_pretrained(folder)
    others = {name: p.detach() for name, p in peft.named_parameters() if "mm_projector" in name and "lora_" not in name}
    assert "base_model.model.model.mm_projector.0.weight" in others
    torch.save(others, folder / "non_lora_trainables.bin")
    return peft


def projected(clip, projector, layer=-2):
    """The image tokens of the picture, computed by transformers and plain torch."""
    preprocess = Preprocess(32)
    pixels = preprocess.normalize(preprocess.transform()(picture(48, 32))[None])
    with torch.no_grad():
        return projector(clip(pixels, output_hidden_states=True).hidden_states[layer][0, 1:])


def logits(run: Path):
    with torch.no_grad():
        return open_run(run, ["device=cpu"]).model.eval().decoder(TOKENS)


def check_same(tmp_path: Path, peft: PeftModel) -> None:
    found, base = logits(tmp_path / "run"), LlamaForCausalLM.from_pretrained(tmp_path / "llm")
    with torch.no_grad():
        assert (found - peft(TOKENS).logits).abs().max() < 1e-4
        assert (found - base(TOKENS).logits).abs().max() > 1e-2


OPTIONS = [
    {},
    {"target_modules": ["q_proj", "v_proj"], "use_rslora": True, "r": 2, "lora_dropout": 0.05},
    {"target_modules": "all-linear", "exclude_modules": ".*mm_projector.*", "task_type": "CAUSAL_LM"},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=["list", "some", "all-linear"])
def test_a_run_of_llavas_trainer_answers_the_same(tmp_path, parts, options):
    clip, chosen = parts
    peft = write_llava_trainer(tmp_path, **options)
    assert import_model(tmp_path / "lora", tmp_path / "run", chosen) == []
    check_same(tmp_path, peft)
    config = json.loads((tmp_path / "run/vision.json").read_text())["components"]["llm_lora"]
    assert config["targets"] == (["q_proj", "v_proj"] if "r" in options else "all-linear")
    assert (config["rank"], config["alpha"]) == (options.get("r", 4), 12.0)
    assert config["dropout"] == options.get("lora_dropout", 0.0)
    model = open_run(tmp_path / "run", ["device=cpu"]).model
    projector = peft.base_model.model.model.mm_projector
    with torch.no_grad():
        rows = model.encode_images(model.tower.preprocess.transform()(picture(48, 32))[None])[0]
    assert torch.allclose(rows, projected(clip, projector), atol=1e-4)


@pytest.mark.slow
def test_a_projector_that_peft_saved_itself_is_the_projector(tmp_path, parts):
    config = LoraConfig(r=4, target_modules=ALL, modules_to_save=["mm_projector"])
    peft = trained(llava_like(tmp_path / "llm"), config)
    peft.save_pretrained(tmp_path / "lora")
    import_model(tmp_path / "lora", tmp_path / "run", parts[1])
    check_same(tmp_path, peft)
    stored = load_file(tmp_path / "run/vision.safetensors")
    expected = peft.base_model.model.model.mm_projector.modules_to_save["default"]
    assert torch.equal(stored["projector.2.weight"], expected[2].weight)


PREFIXES = [
    "base_model.model.model.",
    "base_model.model.model.language_model.",
    "base_model.model.language_model.model.",
    "base_model.model.model.language_model.model.",
]


@pytest.mark.slow
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_names_of_every_release_are_read(tmp_path, parts, prefix, suffix):
    peft = write_llava_trainer(tmp_path)
    file = tmp_path / "lora/adapter_model.safetensors"
    renamed = {name.replace(PREFIXES[0], prefix, 1): tensor for name, tensor in load_file(file).items()}
    assert all(name.startswith(prefix + "layers.") for name in renamed)
    file.unlink()
    if suffix == ".bin":
        # A trainer that saves the state dict itself keeps the adapter's name in it.
        renamed = {name.replace(".weight", ".default.weight"): tensor for name, tensor in renamed.items()}
        torch.save(renamed, file.with_suffix(".bin"))
    else:
        save_file(renamed, file)
    import_model(tmp_path / "lora", tmp_path / "run", parts[1])
    check_same(tmp_path, peft)


@pytest.mark.slow
def test_the_configuration_beside_the_adapters_names_the_tower(tmp_path, parts):
    write_llava_trainer(tmp_path)
    config = {"model_type": "llava_llama", "mm_vision_tower": str(tmp_path / "clip"), "mm_vision_select_layer": -1,
              "mm_projector_type": "mlp2x_gelu", "mm_use_im_start_end": True}  # fmt: skip
    (tmp_path / "lora/config.json").write_text(json.dumps(config))
    (notice,) = import_model(tmp_path / "lora", tmp_path / "run", ImportOptions(llm=tmp_path / "llm"))
    assert notice.startswith("this model was trained with <im_start>")
    spec = json.loads((tmp_path / "run/vision.json").read_text())["tower"]
    assert spec["config"]["num_hidden_layers"] == 2
    config["mm_projector_type"] = "resampler"
    (tmp_path / "lora/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json: mm_projector_type=resampler; medcap import knows linear"):
        import_model(tmp_path / "lora", tmp_path / "other", ImportOptions(llm=tmp_path / "llm"))


@pytest.mark.slow
def test_a_tower_that_was_trained_with_the_adapters_comes_along(tmp_path, parts):
    clip, chosen = parts
    peft = write_llava_trainer(tmp_path)
    file = tmp_path / "lora/non_lora_trainables.bin"
    tower = {f"base_model.model.model.vision_tower.vision_tower.vision_model.{name}": tensor + 1
             for name, tensor in clip.state_dict().items() if tensor.is_floating_point()}  # fmt: skip
    torch.save(torch.load(file) | tower, file)
    import_model(tmp_path / "lora", tmp_path / "run", chosen)
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter += 1
    model = open_run(tmp_path / "run", ["device=cpu"]).model
    with torch.no_grad():
        rows = model.encode_images(model.tower.preprocess.transform()(picture(48, 32))[None])[0]
    assert torch.allclose(rows, projected(clip, peft.base_model.model.model.mm_projector), atol=1e-4)


def write_torchtune(folder: Path, llm: dict, targets: list[str], file: str = "adapter_model.pt") -> dict:
    """What torchtune's checkpointers write of ``lora_finetune_*``, beside the model."""
    folder.mkdir(parents=True)
    torch.manual_seed(4)
    shapes = {"q_proj": ("attn", 32, 32), "v_proj": ("attn", 16, 32), "output_proj": ("attn", 32, 32),
              "w2": ("mlp", 32, 64)}  # fmt: skip
    tensors = {}
    for layer in range(llm["num_layers"]):
        for name in targets:
            part, rows, columns = shapes[name]
            tensors[f"layers.{layer}.{part}.{name}.lora_a.weight"] = torch.randn(8, columns) * 0.15
            tensors[f"layers.{layer}.{part}.{name}.lora_b.weight"] = torch.randn(rows, 8) * 0.15
    torch.save(tensors, folder / file)
    config = {"r": 8, "lora_alpha": 16, "target_modules": list(targets), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(tune_to_peft_adapter_config(config)))
    return tensors


def write_projector(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    tensors = {"model.mm_projector.weight": torch.randn(32, 16), "model.mm_projector.bias": torch.randn(32)}
    torch.save(tensors, tmp_path / "mm_projector.bin")
    return tmp_path / "mm_projector.bin"


@pytest.mark.slow
@pytest.mark.parametrize("file", ["adapter_model.pt", "adapter_0.pt", "adapter_model.safetensors"])
def test_torchtunes_adapters_join_a_projector(tmp_path, parts, file):
    llm = tiny_llm(LLAMA3)
    targets = ["q_proj", "v_proj", "output_proj", "w2"]
    tensors = write_torchtune(tmp_path / "epoch_0", llm, targets, file.replace(".safetensors", ".pt"))
    heads = {"num_heads": 4, "num_kv_heads": 2, "dim": 32, "head_dim": 8}
    as_peft = tune_to_peft_adapter_weights(tensors, **heads)
    if file.endswith(".safetensors"):
        # torchtune writes both; the run must be the same whichever is read.
        save_file({name: tensor.contiguous() for name, tensor in as_peft.items()}, tmp_path / "epoch_0" / file)
    options = ImportOptions(**{**vars(parts[1]), "adapters": tmp_path / "epoch_0"})
    import_model(write_projector(tmp_path), tmp_path / "run", options)
    stored = load_file(tmp_path / "run/llm_lora.safetensors")
    assert stored.keys() == {f"llm_lora.{name}" for name in tensors}
    assert all(torch.equal(stored[f"llm_lora.{name}"], tensor) for name, tensor in tensors.items())
    (tmp_path / "peft").mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in as_peft.items()}, tmp_path / "peft/adapter_model.safetensors"
    )
    (tmp_path / "peft/adapter_config.json").write_bytes((tmp_path / "epoch_0/adapter_config.json").read_bytes())
    check_same(
        tmp_path, PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tmp_path / "llm"), tmp_path / "peft")
    )


@pytest.mark.slow
def test_the_import_of_an_export_apart_gives_every_tensor_back(tmp_path, parts):
    write_llava_trainer(tmp_path)
    import_model(tmp_path / "lora", tmp_path / "run", parts[1])
    export_run(tmp_path / "run", tmp_path / "out", options=ExportOptions(adapters="apart"))
    import_model(tmp_path / "out", tmp_path / "back")
    for file in ("vision.safetensors", "llm_lora.safetensors"):
        before, after = load_file(tmp_path / "run" / file), load_file(tmp_path / "back" / file)
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(tmp_path / "run"), logits(tmp_path / "back"))


@pytest.mark.slow
def test_a_training_goes_on_with_imported_adapters(tmp_path, parts):
    write_llava_trainer(tmp_path)
    import_model(tmp_path / "lora", tmp_path / "run", parts[1])
    start = EarlierRun(str(tmp_path / "run"))
    cfg = read_run(write_run(tmp_path / "new", "clip"))
    cfg = cfg.model_copy(update={"vision_checkpoint": None, "llm_lora": {"rank": 4, "alpha": 12.0}})
    plan = plan_model(cfg, start)
    (component,) = plan.further
    stored = load_file(tmp_path / "run/llm_lora.safetensors")
    assert all(torch.equal(stored[f"llm_lora.{name}"], p) for name, p in component.build(plan).named_parameters())


def change(tmp_path: Path, **fields) -> None:
    file = tmp_path / "lora/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


REFUSED = [
    ({"peft_type": "IA3"}, r"adapter_config\.json: peft_type=IA3; medcap import takes LORA only"),
    ({"use_dora": True}, r"use_dora=True has no place in llm_lora; merge the adapters with PEFT"),
    ({"bias": "lora_only"}, "bias=lora_only has no place in llm_lora"),
    ({"rank_pattern": {"q_proj": 8}}, r"rank_pattern=\{'q_proj': 8\} has no place in llm_lora"),
    ({"alpha_pattern": {"q_proj": 8}}, r"alpha_pattern=\{'q_proj': 8\} has no place in llm_lora"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out=True has no place"),
    ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa_niter_4 changed the base model's weights too"),
    ({"modules_to_save": ["embed_tokens"]}, "modules_to_save has embed_tokens; besides adapters only a projector"),
    ({"r": 0}, "r=0 is not a rank: a whole number from 1"),
    ({"r": 8}, r"has shape \[4, 32\], but llm_lora with r=8 for this language model needs \[8, 32\]"),
    ({"lora_alpha": None}, "lora_alpha=None is not a number above 0"),
    ({"lora_dropout": 1.5}, "lora_dropout=1.5 is not a share below 1"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    write_hugging_face_llm(folder / "llm", random_decoder(tiny_llm(LLAMA3)))
    write_hugging_face_folder(folder / "clip", "clip", "vision")
    write_llava_trainer(folder)
    return folder


@pytest.fixture
def lora(saved, tmp_path):
    (tmp_path / "lora").mkdir()
    for file in (saved / "lora").iterdir():
        (tmp_path / "lora" / file.name).write_bytes(file.read_bytes())
    return tmp_path


def refused(saved, tmp_path, message, **options):
    chosen = ImportOptions(**{"vision": str(saved / "clip"), "llm": saved / "llm", **options})
    with pytest.raises(UserError, match=message) as raised:
        import_model(tmp_path / "lora", tmp_path / "run", chosen)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("*run*"))


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_other_adapters_are_refused_by_name(saved, lora, fields, message):
    change(lora, **fields)
    refused(saved, lora, message)


FILE = "adapter_model.safetensors"
TOWER = "base_model.model.model.vision_tower.vision_tower.vision_model."
WITHIN_TOWER = f"{TOWER}encoder.layers.0.self_attn.q_proj.lora_A.weight"
ONE = "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight"
TENSORS = [
    ({ONE: None}, r"tensor layers\.1\.attn\.k_proj\.lora_b\.weight \[16, 4\] of llm_lora with r=4 .* is missing"),
    ({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)}, r"lm_head\.lora_A\.weight: adapters of something"),
    ({"base_model.model.model.embed_tokens.weight": torch.ones(2, 2)}, r"embed_tokens\.weight: weights of something"),
    ({ONE.replace("lora_B.weight", "lora_magnitude_vector"): torch.ones(16)}, "DoRA's magnitudes for something else"),
    (
        {WITHIN_TOWER: torch.ones(4, 16)},
        r"vision_model\.encoder.*: adapters of something else",
    ),
    ({ONE: torch.full((16, 4), float("nan"))}, "k_proj.lora_B.weight are NaN or infinite"),
    ({ONE.replace("layers.1", "layers.2"): torch.ones(16, 4)}, "has no place in llm_lora with r=4"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), TENSORS)
def test_tensors_that_do_not_belong_are_refused_by_name(saved, lora, changes, message):
    tensors = load_file(lora / "lora" / FILE) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, lora / "lora" / FILE)
    refused(saved, lora, message)


def test_a_target_without_weights_is_named(saved, lora):
    tensors = load_file(lora / "lora" / FILE)
    save_file({name: tensor for name, tensor in tensors.items() if ".o_proj." not in name}, lora / "lora" / FILE)
    refused(saved, lora, "holds no adapters of o_proj, which target_modules names")


def test_what_is_missing_is_asked_for(saved, lora):
    refused(saved, lora, "holds adapters without their language model .*: give --llm FOLDER", llm=None)
    refused(saved, lora, "does not say which tower its projector reads: give --vision FOLDER", vision=None)
    refused(saved, lora, "holds adapters itself; leave it out", adapters=lora / "lora")
    (lora / "lora/non_lora_trainables.bin").unlink()
    refused(saved, lora, r"holds adapters and no projector: name the model that they belong to as SOURCE")
    (lora / "lora/adapter_config.json").unlink()
    refused(saved, lora, r"does not say what its updates are multiplied by: lay adapter_config\.json beside it")
    projector = write_projector(lora)
    with pytest.raises(UserError, match=r"--adapters .*nowhere: there is no such file or folder"):
        import_model(projector, lora / "run", ImportOptions(adapters=lora / "nowhere"))
    (lora / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no adapters: neither adapter_model\.safetensors"):
        import_model(projector, lora / "run", ImportOptions(adapters=lora / "empty"))


def test_adapters_need_the_language_model_that_they_change(saved, lora):
    options = {"vision": str(saved / "clip"), "adapters": lora / "lora"}
    (lora / "lora/non_lora_trainables.bin").unlink()
    with pytest.raises(UserError, match="holds adapters, which need their language model: give --llm FOLDER"):
        import_model(write_projector(lora), lora / "run", ImportOptions(**options))
    write_hugging_face_llm(lora / "llm", random_decoder(tiny_llm(LLAMA3, intermediate_dim=48)))
    with pytest.raises(UserError, match=r"lora_.\.weight has shape .* but llm_lora with r=4 for this .* needs"):
        import_model(write_projector(lora), lora / "run", ImportOptions(**options, llm=lora / "llm"))


@pytest.mark.parametrize("name", [FILE, "non_lora_trainables.bin", "adapter_config.json"])
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", None])
def test_damaged_files_are_named(saved, lora, name, content):
    path = lora / "lora" / name
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    refused(saved, lora, path.name)


@pytest.mark.slow
def test_adapters_of_transformers_llava_join_its_folder(tmp_path):
    export_run(write_run(tmp_path, "clip"), tmp_path / "llava")
    base = LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava")
    config = LoraConfig(
        r=4, target_modules=r".*language_model\..*\.(q_proj|k_proj|up_proj)", modules_to_save=["multi_modal_projector"]
    )
    peft = trained(base, config)
    saved = peft.base_model.model.model.multi_modal_projector.modules_to_save["default"]
    with torch.no_grad():
        saved.linear_2.weight += 0.5
    peft.save_pretrained(tmp_path / "lora")
    import_model(tmp_path / "llava", tmp_path / "joined", ImportOptions(adapters=tmp_path / "lora"))
    turns = CONVERSATIONS["a question"]
    with torch.no_grad():
        expected = peft(**inputs(tmp_path / "llava", turns)).logits
        generator = open_run(tmp_path / "joined", ["device=cpu"])
        generator.model.eval()
        assert (our_logits(generator, turns) - expected).abs().max() < 1e-4
    # The vision tower has maps of the same names; its adapters have no place.
    everywhere = get_peft_model(LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava"), LoraConfig(
        r=4, target_modules=["q_proj"]))  # fmt: skip
    everywhere.save_pretrained(tmp_path / "everywhere")
    with pytest.raises(UserError, match=r"vision_tower.*q_proj\.lora_A\.weight: adapters of something else"):
        import_model(tmp_path / "llava", tmp_path / "other", ImportOptions(adapters=tmp_path / "everywhere"))
