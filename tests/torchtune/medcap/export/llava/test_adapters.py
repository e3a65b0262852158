"""Exports of a run with adapters: merged, and apart as PEFT loads them."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlavaForConditionalGeneration

from helpers.llava_parity import CONVERSATIONS, inputs, our_logits
from helpers.run_folders import write_run
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.build_model import ComponentPlan, plan_model
from medcap.checkpoints.run import read_run
from medcap.checkpoints.vision_files import read_vision_checkpoint, save_components
from medcap.errors import UserError
from medcap.export.formats import ExportOptions, export_run
from medcap.generation.run import open_run

pytestmark = pytest.mark.slow
OPTIONS = [
    {"rank": 4},
    {"rank": 2, "alpha": 6.0, "targets": ["q_proj", "k_proj", "down_proj"], "rank_stabilised": True},
]


def with_adapters(run: Path, **options) -> Path:
    """Put adapters that change the answers into a run."""
    plan = plan_model(read_run(run))
    torch.manual_seed(5)
    adapters = ComponentPlan("llm_lora", {"_component_": "medcap.models.llm_lora.llm_lora", **options}).build(plan)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.normal_(std=0.3)
    step = latest_checkpoint(run)
    saved = read_vision_checkpoint(step / "vision.safetensors")
    parts = [*plan.vision.build(), adapters]
    save_components(step, [part.state() for part in parts], saved.llm)
    return run


@pytest.fixture(scope="module", params=OPTIONS, ids=["all", "some"])
def run(tmp_path_factory, request):
    return with_adapters(write_run(tmp_path_factory.mktemp("adapters")), **request.param)


def logits_of(model, folder, turns):
    with torch.no_grad():
        return model(**inputs(folder, turns)).logits


def test_merged_adapters_compute_what_the_run_computes(run, tmp_path):
    (notice,) = export_run(run, tmp_path / "out")
    assert "merged into the language model's weights" in notice
    generator = open_run(run)
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    for name, turns in CONVERSATIONS.items():
        with torch.no_grad():
            expected = our_logits(generator, turns)
            with generator.model.without(["llm_lora"]):
                bare = our_logits(generator, turns)
        found = logits_of(model, tmp_path / "out", turns)
        assert (found - expected).abs().max() < 1e-4, name
        assert (found - bare).abs().max() > 1e-2, name


def test_adapters_apart_are_those_that_peft_loads(run, tmp_path):
    (notice,) = export_run(run, tmp_path / "out", options=ExportOptions(adapters="apart"))
    assert notice.startswith("adapter/ holds the adapters for PEFT")
    generator = open_run(run)
    base = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    before = {name: logits_of(base, tmp_path / "out", turns) for name, turns in CONVERSATIONS.items()}
    model = PeftModel.from_pretrained(base, tmp_path / "out/adapter").eval()
    assert not [name for name, _ in model.named_parameters() if "lora_" in name and "vision" in name]
    for name, turns in CONVERSATIONS.items():
        with torch.no_grad():
            expected = our_logits(generator, turns)
            with generator.model.without(["llm_lora"]):
                bare = our_logits(generator, turns)
        assert (before[name] - bare).abs().max() < 1e-4, name
        found = logits_of(model, tmp_path / "out", turns)
        assert (found - expected).abs().max() < 1e-4, name
        # [Contract] keys that a loader passes over without a word would leave the base model's answers.
        assert (found - before[name]).abs().max() > 1e-2, name


def test_adapters_apart_need_adapters(tmp_path):
    with pytest.raises(UserError, match="--adapters apart: the run has no adapters"):
        export_run(write_run(tmp_path), tmp_path / "out", options=ExportOptions(adapters="apart"))
