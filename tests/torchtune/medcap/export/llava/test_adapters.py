"""Exports of a run with adapters: merged, and apart as PEFT loads them."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from helpers.llava_parity import CONVERSATIONS, inputs, our_logits, ours
from helpers.run_adapters import with_adapters
from helpers.run_folders import write_run
from medcap.checkpoints.llm_architecture import describe
from medcap.data.batch import make_batch
from medcap.data.packing import Sample, pack_row
from medcap.errors import UserError
from medcap.export.adapter_folder import write_adapter
from medcap.export.formats import ExportOptions, export_run
from medcap.generation.run import open_run

pytestmark = pytest.mark.slow
OPTIONS = [
    {"rank": 4},
    {"rank": 2, "alpha": 6.0, "targets": ["q_proj", "k_proj", "down_proj"], "rank_stabilised": True},
]


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
    from peft import PeftModel  # imports for seconds, which only the process that runs this need wait for

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


def test_gradients_are_those_of_peft(run, tmp_path):
    from peft import PeftModel

    export_run(run, tmp_path / "out", options=ExportOptions(adapters="apart"))
    turns, answer = CONVERSATIONS["a question"], [40, 41, 42, 43]
    base = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    theirs = PeftModel.from_pretrained(base, tmp_path / "out/adapter", is_trainable=True).eval()
    given = inputs(tmp_path / "out", turns)
    start = given["input_ids"].shape[1]
    ids = torch.cat([given["input_ids"], torch.tensor([answer])], 1)
    labels = torch.where(torch.arange(ids.shape[1]) >= start, ids, -100)
    loss = theirs(**{**given, "input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels=labels).loss
    loss.backward()

    model = open_run(run).model
    prompt = open_run(run).tokenizer.prompt(ours(turns))
    tokens = np.array([*prompt.tokens, *answer], dtype=np.int32)
    targets = np.where(np.arange(1, len(tokens)) >= start, tokens[1:], -100).astype(np.int32)
    images_end = int(np.flatnonzero(tokens == model.image_token_id)[-1]) + 1
    one = Sample(tokens[:-1], targets, ("picture",), tuple(prompt.image_lengths), images_end, "row")
    row = pack_row([[one]], len(tokens), pad_id=0)
    (picture,) = prompt.images
    pixels = model.tower.preprocess.transform()(picture)
    batch = make_batch([row], model.image_token_id, model.num_image_tokens, lambda _: pixels)
    adapters = model.components["llm_lora"].requires_grad_(True)
    own = model.losses(batch)["text"] / len(answer)
    own.backward()
    torch.testing.assert_close(own, loss, rtol=1e-5, atol=1e-5)

    shape = describe(model.decoder)
    gradients = {name: parameter.grad for name, parameter in adapters.named_parameters()}
    write_adapter(tmp_path / "gradients", adapters.config(), gradients, shape, None)
    for name, expected in load_file(tmp_path / "gradients/adapter_model.safetensors").items():
        found = theirs.get_parameter(name.replace(".weight", ".default.weight")).grad
        assert (found - expected).norm() <= 1e-5 * max(1.0, expected.norm()), name


def test_the_card_of_a_merged_export_says_that_the_weights_are_not_the_original_ones(run, tmp_path):
    export_run(run, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "Training changed no weight of the language model itself" in card and "Not one weight" not in card
    assert "merged into the language model's weights, which are not the original ones" in card.replace("\n", " ")
    assert "| LLM adapters | rank" in card
