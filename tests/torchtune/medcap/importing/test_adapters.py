"""Adapters that PEFT, LLaVA-like trainers and torchtune write, as runs of ours."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torchtune.models.convert_weights import tune_to_peft_adapter_config, tune_to_peft_adapter_weights
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from helpers.adapter_folders import ALL, llava_like, trained, write_llava_trainer, write_projector
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
from medcap.models.preprocess import Preprocess

TOKENS = torch.arange(20, 50)[None]


@pytest.fixture
def parts(tmp_path):
    write_hugging_face_llm(tmp_path / "llm", random_decoder(tiny_llm(LLAMA3)))
    clip = write_hugging_face_folder(tmp_path / "clip", "clip", "vision").eval()
    return clip, ImportOptions(vision=str(tmp_path / "clip"), llm=tmp_path / "llm")


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
        rows = model.encode_images(model.tower.preprocess.transform()(picture(48, 32))[None])
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
        rows = model.encode_images(model.tower.preprocess.transform()(picture(48, 32))[None])
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
