"""Adapters that cannot be imported: each is told in one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.adapter_folders import TOWER, write_llava_trainer, write_projector
from helpers.llm_checkpoints import random_decoder, tiny_llm, write_hugging_face_llm
from helpers.run_folders import LLAMA3
from helpers.vision_checkpoints import write_hugging_face_folder
from medcap.errors import UserError
from medcap.importing.sources import ImportOptions, import_model


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
    with pytest.raises(UserError, match=r"--adapters .*nowhere does not exist"):
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
