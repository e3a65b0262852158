"""The written folder: transformers computes the same logits and ids, medcap reads it back, it is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchtune.data import Message

from helpers.llm_checkpoints import random_decoder, tiny_llm
from helpers.tokenizers import tiny_tokenizer_file
from medcap.checkpoints.frozen_llm import plan_llm
from medcap.checkpoints.hf_llama_writer import write_hugging_face_llama
from medcap.checkpoints.llm_fingerprint import llm_fingerprint
from medcap.errors import UserError
from medcap.models.tokenizers import llama3_tokenizer

LLAMA3_1 = "torchtune.models.llama3_1.llama3_1"
TEXTS = ["Describe the image.", "\u2460\u2460\u2460\u2460 is clear", "Grüße\n\n 12345  x\t", "\U0001fa7b lungs", " "]


def _arguments(llm: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in llm.items() if key != "_component_"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, llm = tmp_path_factory.mktemp("llama"), tiny_llm()
    tokenizer_file = tiny_tokenizer_file(folder / "tokenizer")
    write_hugging_face_llama(folder / "out", random_decoder(llm), _arguments(llm), tokenizer_file)
    return folder / "out"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builder", "dtype"),
    [
        ("torchtune.models.llama3.llama3", torch.float32),
        (LLAMA3_1, torch.float32),
        ("torchtune.models.llama3_2.llama3_2", torch.float32),
        (LLAMA3_1, torch.bfloat16),
    ],
)
@torch.no_grad()
def test_transformers_and_medcap_read_the_same_model(tmp_path: Path, builder: str, dtype: torch.dtype) -> None:
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    llm = tiny_llm(builder, max_seq_len=16_384)
    decoder = random_decoder(llm).to(dtype)
    write_hugging_face_llama(tmp_path / "out", decoder, _arguments(llm), tiny_tokenizer_file(tmp_path))
    loaded = plan_llm(llm, tmp_path / "out").load("cpu", dtype)
    assert llm_fingerprint(loaded) == llm_fingerprint(decoder)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert isinstance(reference, LlamaForCausalLM)
    assert reference.dtype == dtype
    tokens, positions = torch.tensor([[380, 7, 300, 42]]), torch.tensor([[0, 5, 4000, 16_000]])
    logits = reference.float()(tokens, attention_mask=torch.ones_like(tokens), position_ids=positions).logits
    torch.testing.assert_close(loaded.float()(tokens, input_pos=positions), logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_tokenizer_makes_the_same_ids(written: Path, text: str) -> None:
    from transformers import AutoTokenizer

    fast, ours = AutoTokenizer.from_pretrained(written), llama3_tokenizer(str(written / "original/tokenizer.model"))
    assert fast(text, add_special_tokens=False).input_ids == ours.encode(text, add_bos=False, add_eos=False)
    assert fast(text).input_ids == ours.encode(text, add_eos=False)
    assert fast.decode(fast(text).input_ids, skip_special_tokens=True) == text


def test_chat_template_is_that_of_llama_3(written: Path) -> None:
    from transformers import AutoTokenizer

    fast, ours = AutoTokenizer.from_pretrained(written), llama3_tokenizer(str(written / "original/tokenizer.model"))
    chat = [("system", "Is it clear?"), ("user", " \u2460\u2460\n\nWhat is in the image? "), ("assistant", "No lung.")]
    turns = [{"role": role, "content": content} for role, content in chat]
    messages = [Message(role=role, content=content) for role, content in chat]
    whole = fast.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert whole == ours.tokenize_messages(messages)[0][:-1]  # torchtune ends a training sample with <|end_of_text|>
    prompt = fast.apply_chat_template(turns[:2], tokenize=True, return_dict=False, add_generation_prompt=True)
    opened = [*messages[:2], Message(role="assistant", content="")]
    assert prompt == ours.tokenize_messages(opened, add_end_tokens=False)[0]


def test_special_tokens_have_torchtunes_ids(written: Path) -> None:
    from transformers import AutoTokenizer

    fast, ours = AutoTokenizer.from_pretrained(written), llama3_tokenizer(str(written / "original/tokenizer.model"))
    assert {name: fast.convert_tokens_to_ids(name) for name in ours.special_tokens} == ours.special_tokens
    assert len(fast) == ours.vocab_size == json.loads((written / "config.json").read_text())["vocab_size"]
    assert (fast.bos_token_id, fast.eos_token_id, fast.pad_token_id) == (ours.bos_id, ours.eot_id, ours.pad_id)


def test_config_is_readable_by_older_transformers(written: Path) -> None:
    config = json.loads((written / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert (config["rope_theta"], config["torch_dtype"], config["rms_norm_eps"]) == (500_000.0, "float32", 1e-05)
    assert config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    assert config["eos_token_id"] == [381, 388, 389]
    settings = json.loads((written / "tokenizer_config.json").read_text())
    assert (settings["tokenizer_class"], settings["padding_side"]) == ("PreTrainedTokenizerFast", "left")
    assert "<|start_header_id|>assistant" in settings["chat_template"]


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError("disk full")

    llm, file = tiny_llm(), tiny_tokenizer_file(tmp_path / "tokenizer")
    monkeypatch.setattr("medcap.checkpoints.hf_llama_writer.write_fast_tokenizer", fail)
    with pytest.raises(OSError, match="disk full"):
        write_hugging_face_llama(tmp_path / "out", random_decoder(llm), {}, file)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


def test_existing_folder_is_not_overwritten(written: Path) -> None:
    with pytest.raises(UserError, match="out exists already: remove it"):
        write_hugging_face_llama(written, random_decoder(tiny_llm()), {}, written / "original/tokenizer.model")


def test_other_decoders_and_arguments_are_refused(tmp_path: Path) -> None:
    file = tiny_tokenizer_file(tmp_path)
    with pytest.raises(ValueError, match="only torchtune's llama3, llama3_1 and llama3_2"):
        write_hugging_face_llama(tmp_path / "out", random_decoder(tiny_llm("torchtune.models.qwen2.qwen2")), {}, file)
    with pytest.raises(ValueError, match="architecture has num_layers=3, the decoder 2"):
        write_hugging_face_llama(tmp_path / "out", random_decoder(tiny_llm()), {"num_layers": 3}, file)
    assert not (tmp_path / "out").exists()
