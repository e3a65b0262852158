"""LLaVA's words around an image, which are the last rows of its tables."""

import json

import torch
from safetensors.torch import load_file, save_file

from helpers.llm_checkpoints import random_decoder, tiny_llm, write_hugging_face_llm
from helpers.run_folders import LLAMA3
from helpers.tokenizers import tiny_vocab_size
from helpers.vision_checkpoints import write_hugging_face_folder
from medcap.generation.prompt import user_message
from medcap.generation.run import open_run
from medcap.importing.sources import import_model


def test_words_around_an_image_are_taken_off_the_tables(tmp_path):
    source = write_hugging_face_llm(
        tmp_path / "source", random_decoder(tiny_llm(LLAMA3, vocab_size=tiny_vocab_size() + 2))
    )
    write_hugging_face_folder(tmp_path / "clip", "clip", "vision")
    tensors = load_file(source / "model.safetensors")
    projector = {"model.mm_projector.weight": torch.ones(32, 16), "model.mm_projector.bias": torch.ones(32)}
    save_file(tensors | projector, source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config |= {"model_type": "llava_llama", "mm_vision_tower": str(tmp_path / "clip"), "mm_use_im_start_end": True}
    (source / "config.json").write_text(json.dumps(config))

    assert import_model(source, tmp_path / "run") == []
    words = load_file(tmp_path / "run/words.safetensors")
    own = load_file(tmp_path / "run/llm/model.safetensors")
    for name, rows in (("model.embed_tokens.weight", "words.embedding"), ("lm_head.weight", "words.output")):
        assert torch.equal(torch.cat([own[name], words[rows]]), tensors[name])
    generator = open_run(tmp_path / "run", ["device=cpu"])
    tokens = generator.tokenizer.prompt([user_message("a.png", "Is it clear?")]).tokens
    image, first = generator.tokenizer.image_token_id, tiny_vocab_size()
    start = tokens.index(first)
    assert tokens[start : start + 18] == [first, *[image] * 16, first + 1]
