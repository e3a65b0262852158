import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration, pipeline

from helpers.llava_parity import CONVERSATIONS, FIRST, inputs, our_logits, ours, theirs
from helpers.llm_checkpoints import random_decoder, tiny_llm, write_meta_llm
from helpers.run_folders import LLAMA3, POOLED_MLP, picture, write_run
from medcap.errors import UserError
from medcap.export.formats import ExportOptions, export_run
from medcap.export.llava import processor as llava_processor
from medcap.generation.request import Request, Sampling
from medcap.generation.run import open_run
from medcap.models.towers.hugging_face_tower import HuggingFaceTower

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(tmp_path_factory, request):
    """A run and its export, for one kind of tower."""
    folder = tmp_path_factory.mktemp(request.param)
    run = write_run(folder, request.param)
    assert export_run(run, folder / "out") == []
    return run, folder / "out"


@pytest.mark.parametrize("exported", ["siglip", "clip", "biomedclip"], indirect=True)
def test_transformers_computes_what_the_run_computes(exported):
    run, folder = exported
    generator = open_run(run)
    model, found = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert {name: list(value) for name, value in found.items() if value} == {}
    for name, turns in CONVERSATIONS.items():
        given = inputs(folder, turns)
        with torch.no_grad():
            expected, logits = our_logits(generator, turns), model(**given).logits
        assert logits.shape == expected.shape, name
        assert (logits - expected).abs().max() < 1e-4, name
        (answer,) = generator.generate([Request(ours(turns))], Sampling(max_new_tokens=8))
        made = model.generate(**given, max_new_tokens=8)[0, given["input_ids"].shape[1] :].tolist()
        stops = generator.tokenizer.stop_tokens
        assert [token for token in made if token not in stops] == answer.tokens, name


QUESTIONS = (
    "?",
    "Is there a circle?",
    "What modality is this image, and where is the lesion? Please answer at length.",
    "Where?",
    "Describe it.",
    "Is the outline smooth or spiky, and is the lesion bright or dark?",
    "",
    "How large is it?",
)


@pytest.mark.parametrize("exported", ["siglip", "clip", "biomedclip"], indirect=True)
def test_answers_in_a_batch_are_those_one_by_one(exported):
    _, folder = exported
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    chats = [theirs([("user", picture(40 + 4 * seed, 36, seed=seed), words)]) for seed, words in enumerate(QUESTIONS)]
    chats[3] = theirs([("user", None, "Describe a normal chest.")])

    def answers(chats):
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "processor_kwargs": {"padding": True}}
        given = processor.apply_chat_template(chats, add_generation_prompt=True, **options)
        made = model.generate(**given, max_new_tokens=8)[:, given["input_ids"].shape[1] :]
        return processor.batch_decode(made, skip_special_tokens=True)

    alone = [answers([chat])[0] for chat in chats]
    assert len(set(alone)) > 1
    assert answers(chats) == alone
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    # The pipeline itself cannot put rows with and without a picture into one batch.
    made = pipe(text=chats[:3] + chats[4:], batch_size=4, max_new_tokens=8, return_full_text=False)
    assert [answer["generated_text"] for (answer,) in made] == alone[:3] + alone[4:]


def test_an_export_of_a_model_with_few_positions_warns_of_nothing(tmp_path, caplog):
    export_run(write_run(tmp_path, "clip", llm=tiny_llm()), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())["text_config"]
    assert config["rope_scaling"]["original_max_position_embeddings"] > config["max_position_embeddings"]
    assert caplog.messages == []


@pytest.mark.parametrize("exported", ["clip"], indirect=True)
def test_the_folder_says_what_batches_need(exported):
    _, folder = exported
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert (settings["padding_side"], settings["pad_token"]) == ("left", "<|finetune_right_pad_id|>")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert (tokenizer.padding_side, processor.tokenizer.padding_side) == ("left", "left")
    generation = json.loads((folder / "generation_config.json").read_text())
    stops = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
    assert sorted(generation["eos_token_id"]) == sorted(tokenizer.convert_tokens_to_ids(stops))
    assert generation["pad_token_id"] == tokenizer.pad_token_id
    assert tokenizer.pad_token_id not in generation["eos_token_id"]
    config = json.loads((folder / "config.json").read_text())
    assert settings["model_max_length"] == config["text_config"]["max_position_embeddings"] == 256
    own = json.loads((folder / "processor_config.json").read_text())
    assert own["vision_feature_select_strategy"] == config["vision_feature_select_strategy"] == "default"
    assert (own["patch_size"], own["num_additional_image_tokens"]) == (config["vision_config"]["patch_size"], 1)
    assert tokenizer.chat_template == processor.chat_template == (folder / "chat_template.jinja").read_text()


@pytest.mark.parametrize("exported", ["clip"], indirect=True)
def test_text_and_images_may_be_processed_in_two_steps_too(exported):
    _, folder = exported
    turns = CONVERSATIONS["a question"]
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    words = inputs(folder, turns, tokenize=False)
    assert words.startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<image>\nIs there a circle?")
    assert processor(text=words, images=FIRST)["input_ids"] == inputs(folder, turns, return_tensors=None)["input_ids"]


@pytest.mark.parametrize("exported", ["siglip"], indirect=True)
def test_the_folder_holds_what_its_readers_look_for(exported):
    run, folder = exported
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "original/tokenizer.model",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]
    assert config["vision_feature_layer"] == -1 and config["vision_feature_select_strategy"] == "full"
    assert config["image_seq_length"] == 16
    # What vLLM's and SGLang's loaders look for.
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert {name.split("layers.")[0].rpartition(".")[0] for name in names if "layers." in name} == {
        "language_model.model",
        "vision_tower.vision_model.encoder",
    }
    assert {"language_model.lm_head.weight", "language_model.model.embed_tokens.weight"} < names
    assert {f"multi_modal_projector.linear_{number}.weight" for number in (1, 2)} < names
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == config["image_token_index"]
    for path in folder.rglob("*"):
        assert str(run.parent).encode() not in (path.read_bytes() if path.is_file() else b""), path


def test_bf16_files_stay_as_they_are_and_are_cut_into_shards(tmp_path):
    run = write_run(tmp_path, "siglip", dtype=torch.bfloat16)
    export_run(run, tmp_path / "out", options=ExportOptions(shard_bytes=40_000))
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) == 4 and "model-00001-of-00004.safetensors" in files
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in model.state_dict().values())
    export_run(run, tmp_path / "full", options=ExportOptions(dtype="fp32"))
    assert LlavaForConditionalGeneration.from_pretrained(tmp_path / "full").dtype == torch.float32


def test_metas_own_files_give_the_same_export(tmp_path):
    llm = tiny_llm(LLAMA3)
    run = write_run(tmp_path, "siglip", llm=llm)
    export_run(run, tmp_path / "hf")
    write_meta_llm(tmp_path / "meta", random_decoder(llm), pieces=2)
    export_run(run, tmp_path / "out", overrides=[f"checkpointer.checkpoint_dir={tmp_path / 'meta'}"])
    first, second = (
        LlavaForConditionalGeneration.from_pretrained(tmp_path / name).state_dict() for name in ("hf", "out")
    )
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items()) and first.keys() == second.keys()


def test_an_output_projection_that_is_the_embedding_table_stays_so(tmp_path):
    run = write_run(tmp_path, "clip", llm=tiny_llm("torchtune.models.llama3_2.llama3_2"))
    export_run(run, tmp_path / "out")
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    turns = CONVERSATIONS["a question"]
    with torch.no_grad():
        logits = model(**inputs(tmp_path / "out", turns)).logits
    assert (logits - our_logits(open_run(run), turns)).abs().max() < 1e-4


def test_a_narrow_projector_is_filled_up_and_computes_the_same(tmp_path):
    run = write_run(tmp_path, "clip", {"_component_": "medcap.models.mlp", "hidden_dim": 20})
    export_run(run, tmp_path / "out")
    turns = CONVERSATIONS["a question"]
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.model.multi_modal_projector.linear_1.weight.shape == (32, 16)
    with torch.no_grad():
        logits = model(**inputs(tmp_path / "out", turns)).logits
    assert (logits - our_logits(open_run(run), turns)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("tower", "projector", "message"),
    [
        ("tiny", None, "no vision model that LLaVA could use as this tiny tower"),
        ("siglip", POOLED_MLP, "only projector=medcap.models.mlp can be exported"),
        ("clip", {"_component_": "medcap.models.mlp", "num_image_tokens": 4}, "cannot pool them to num_image_tokens=4"),
        ("clip", {"_component_": "medcap.models.mlp", "depth": 3}, "LLaVA's projector is a two-layer MLP"),
        ("clip", {"_component_": "medcap.models.mlp", "hidden_dim": 40}, "projector.hidden_dim=40; train with 32 or"),
    ],
)
def test_what_llava_has_no_place_for_is_reported_in_one_line(tmp_path, tower, projector, message):
    run = write_run(tmp_path, tower, projector)
    with pytest.raises(UserError, match=message) as caught:
        export_run(run, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*out*"))


def test_another_language_model_or_tokenizer_is_reported_in_one_line(tmp_path, monkeypatch):
    run = write_run(tmp_path, "siglip")
    with monkeypatch.context() as patched, pytest.raises(UserError, match="is not torchtune's Llama, and only Llama 3"):
        patched.setattr("medcap.export.llava.language.is_llama", lambda decoder: False)
        export_run(run, tmp_path / "out")
    with monkeypatch.context() as patched, pytest.raises(UserError, match="tokenizer is a Llama3Tokenizer, and only"):
        patched.setattr("medcap.export.llava.processor.Llama3Tokenizer", type("Other", (), {}))
        export_run(run, tmp_path / "out")


def test_an_export_that_asks_or_sees_something_else_is_refused(tmp_path, monkeypatch):
    run = write_run(tmp_path, "siglip")
    with monkeypatch.context() as patched, pytest.raises(UserError, match="sample conversation 1 with other ids"):
        patched.setattr(llava_processor, "CHAT_TEMPLATE", llava_processor.CHAT_TEMPLATE.replace("!= kind", "== kind"))
        export_run(run, tmp_path / "out")
    whole = HuggingFaceTower.encode_patches
    with monkeypatch.context() as patched, pytest.raises(UserError, match="gives other features than this"):
        patched.setattr(HuggingFaceTower, "encode_patches", lambda self, images: 1.01 * whole(self, images))
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    run = write_run(tmp_path, "siglip")
    Path(tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"--out .*out exists already"):
        export_run(run, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
