"""Exports of a run with added words: larger tables, a tokenizer that knows the words, and the way back."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from helpers.llava_parity import CONVERSATIONS, FIRST, inputs, our_logits, ours
from helpers.llm_checkpoints import tiny_llm
from helpers.run_folders import write_run
from helpers.tokenizers import tiny_vocab_size
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.build_model import ComponentPlan, plan_model
from medcap.checkpoints.run import read_run
from medcap.checkpoints.vision_files import read_vision_checkpoint, save_components
from medcap.export.formats import ExportOptions, export_run
from medcap.generation.run import open_run
from medcap.importing.sources import import_model

pytestmark = pytest.mark.slow
WORDS = ["<SEG>", "<im_start>", "<im_end>", "<SEG>2"]
COMPONENTS = {
    "llm_lora": {"_component_": "medcap.models.llm_lora.llm_lora", "rank": 2},
    "words": {"_component_": "medcap.models.added_words", "tokens": WORDS, "image_words": WORDS[1:3]},
}
TALKS = {
    "a question": CONVERSATIONS["a question"],
    "words in words": [
        ("user", FIRST, "<SEG>Is there <SEG>2 circle?<SEG>"),
        ("assistant", None, "No <SEG>."),
        ("user", None, "a<SEG><SEG>2b"),
    ],
}
# An untied Llama, and one whose embedding table is its output projection.
LLMS = {"untied": None, "tied": tiny_llm("torchtune.models.llama3_2.llama3_2", scale_factor=8)}


def run_with(folder: Path, names, llm=None) -> Path:
    """A run whose components beside tower and projector have random weights."""
    run = write_run(folder, llm=llm)
    plan = plan_model(read_run(run))
    torch.manual_seed(5)
    parts = [ComponentPlan(name, COMPONENTS[name]).build(plan) for name in names]
    for part in parts:
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
    step = latest_checkpoint(run)
    saved = read_vision_checkpoint(step / "vision.safetensors")
    save_components(step, [part.state() for part in (*plan.vision.build(), *parts)], saved.llm)
    return run


@pytest.fixture(scope="module", params=LLMS)
def exported(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("words")
    run = run_with(folder, ["words"], LLMS[request.param])
    export_run(run, folder / "out")
    return run, folder / "out"


def test_transformers_computes_what_the_run_computes(exported):
    run, folder = exported
    generator = open_run(run)
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    for turns in TALKS.values():
        given = inputs(folder, turns)
        with torch.no_grad():
            found, expected = model(**given).logits, our_logits(generator, turns)
        assert found.shape == expected.shape and found.shape[-1] == tiny_vocab_size() + 4
        assert (found - expected).abs().max() < 1e-4
        image, own = generator.tokenizer.image_token_id, generator.tokenizer.prompt(ours(turns)).tokens
        images = model.config.image_token_id
        assert given["input_ids"][0].tolist() == [images if token == image else token for token in own]


def test_its_tokenizer_writes_and_reads_the_words(exported):
    _, folder = exported
    tokenizer = AutoTokenizer.from_pretrained(folder)
    first = tiny_vocab_size()
    ids = tokenizer("<SEG>2<SEG> <im_end>", add_special_tokens=False)["input_ids"]
    assert ids == [first + 3, first, ord(" "), first + 2]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<SEG>2<SEG> <im_end>"


def test_the_way_back_keeps_every_tensor(exported, tmp_path):
    run, folder = exported
    import_model(folder, tmp_path / "back")
    step = latest_checkpoint(run)
    for name in ("words", "vision"):
        before, after = (load_file(place / f"{name}.safetensors") for place in (step, tmp_path / "back"))
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    before, after = (load_file(place / "llm/model.safetensors") for place in (run.parent, tmp_path / "back"))
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items()) and before.keys() == after.keys()
    first, second = open_run(run), open_run(tmp_path / "back", ["device=cpu"])
    assert second.model.components["words"].config() == COMPONENTS["words"]
    for turns in TALKS.values():
        assert torch.equal(our_logits(first, turns), our_logits(second, turns))


def test_adapters_go_into_the_weights_and_words_behind_the_tables(tmp_path):
    run = run_with(tmp_path, ["llm_lora", "words"])
    generator = open_run(run)
    export_run(run, tmp_path / "merged")
    export_run(run, tmp_path / "apart", options=ExportOptions(adapters="apart"))
    merged = LlavaForConditionalGeneration.from_pretrained(tmp_path / "merged")
    apart = PeftModel.from_pretrained(
        LlavaForConditionalGeneration.from_pretrained(tmp_path / "apart"), tmp_path / "apart/adapter"
    ).eval()
    turns = TALKS["words in words"]
    with torch.no_grad():
        expected = our_logits(generator, turns)
        for model, folder in ((merged, tmp_path / "merged"), (apart, tmp_path / "apart")):
            assert (model(**inputs(folder, turns)).logits - expected).abs().max() < 1e-4


def test_words_that_nothing_has_trained_start_as_the_mean_in_an_export_too(tmp_path):
    run = write_run(tmp_path)
    export_run(run, tmp_path / "out", overrides=["words=[<SEG>]"])
    table = load_file(tmp_path / "out/model.safetensors")["language_model.model.embed_tokens.weight"]
    torch.testing.assert_close(table[-1], table[:-1].mean(0))
    assert json.loads((tmp_path / "out/config.json").read_text())["text_config"]["vocab_size"] == len(table)


def test_words_behind_tables_with_more_rows_than_the_tokenizer_has_ids(tmp_path):
    rows = tiny_vocab_size() + 3  # as where tables are padded to a round number
    run = run_with(tmp_path, ["words"], tiny_llm(vocab_size=rows))
    export_run(run, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("<SEG>2<SEG>", add_special_tokens=False)["input_ids"] == [rows + 3, rows]
    generator, turns = open_run(run), TALKS["words in words"]
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        found, expected = model(**inputs(tmp_path / "out", turns)).logits, our_logits(generator, turns)
    assert found.shape == expected.shape and found.shape[-1] == rows + 4
    assert (found - expected).abs().max() < 1e-4
    import_model(tmp_path / "out", tmp_path / "back")
    assert torch.equal(our_logits(open_run(tmp_path / "back", ["device=cpu"]), turns), expected)
