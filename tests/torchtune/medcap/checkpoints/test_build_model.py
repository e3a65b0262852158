from types import SimpleNamespace

import pytest

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
