from types import SimpleNamespace

import pytest
import torch

from helpers.decoder_tokenizers import family_tokenizer
from medcap.checkpoints import build_model as assembly
from medcap.checkpoints.keys import CheckpointerSection, ModelConfiguration
from medcap.models.preprocess import Preprocess


@pytest.mark.parametrize(("family", "notices"), [("gemma", 1), ("gemma_chat", 0), ("llama2", 0), ("qwen2_5", 0)])
def test_a_tokenizer_without_turn_marks_is_a_notice(tmp_path, monkeypatch, family, notices):
    vision = SimpleNamespace(num_image_tokens=4, notices=[], saved=None, preprocess=Preprocess(8))
    monkeypatch.setattr(assembly, "plan_llm", lambda *args: SimpleNamespace(dim=8, vocab_size=0))
    monkeypatch.setattr(assembly, "plan_vision", lambda *args: vision)
    monkeypatch.setattr(assembly, "check_tokenizer_fits", lambda *args: None)
    monkeypatch.setattr(assembly, "build", lambda node, key: family_tokenizer(family, tmp_path))
    keys = {"vision": "tiny", "vision_checkpoint": None, "llm": {}, "projector": {}, "tokenizer": {}}
    keys["checkpointer"] = CheckpointerSection.model_construct(checkpoint_dir="x")
    plan = assembly.plan_model(ModelConfiguration.model_construct(**keys, device="cpu"))
    assert (
        plan.vision.notices
        == [
            "tokenizer: nothing marks where a question ends and its answer begins, which an instruct model expects; set"
            " tokenizer.prompt_template to the model's own marks, as README_FINETUNE.md shows for Gemma"
        ]
        * notices
    )


@pytest.mark.parametrize(("name", "enabled"), [("auto", False), ("cuda", False), ("cuda:0", False), ("cpu", True)])
def test_attention_by_cudnn_is_off_where_a_gpu_is_chosen(monkeypatch, name, enabled):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        assembly.choose_device(name)
        assert torch.backends.cuda.cudnn_sdp_enabled() is enabled
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize(
    ("name", "own"), [("auto", []), ("cuda", []), ("cuda:1", [torch.device("cuda", 1)]), ("cpu", [])]
)
def test_a_numbered_gpu_becomes_the_processes_own(monkeypatch, name, own):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda enabled: None)
    found = []
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    assert assembly.choose_device(name).type == name[:4].rstrip(":").replace("auto", "cuda")
    assert found == own
