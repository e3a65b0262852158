"""Small Hugging Face chat checkpoints: a Llama, a tokenizer.json, Llama 3's chat template without a system turn."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from torchtune.modules import TransformerDecoder

from helpers.llm_checkpoints import random_decoder, tiny_llm, write_hugging_face_llm
from helpers.tokenizers import tiny_ranks
from medcap.models.tokenizers import llama3_special_tokens

CHAT_TEMPLATE = (
    "<|begin_of_text|>{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def write_chat_checkpoint(folder: Path, decoder: TransformerDecoder | None = None, **config: Any) -> Path:
    """Write a judge's folder; its ids are those of ``tiny_tokenizer_file``.

    Args:
        folder: where.
        decoder: decoder of a torchtune Llama builder; by default a random one.
        config: changes to config.json.

    Returns:
        The folder.
    """
    write_hugging_face_llm(folder, decoder or random_decoder(tiny_llm()), **config)
    write_chat_tokenizer(folder)
    return folder


def write_chat_tokenizer(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> None:
    """Write tokenizer.json and tokenizer_config.json: byte-level BPE with Llama 3's special tokens."""
    letters = _byte_letters()
    ranks = tiny_ranks()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    special = llama3_special_tokens(len(ranks))
    content = {
        "version": "1.0",
        "added_tokens": [
            {"id": id, "content": name, "special": True, "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False}
            for name, id in sorted(special.items(), key=lambda item: item[1])
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "vocab": {spelled[token]: rank for token, rank in ranks.items()},
            "merges": [[spelled[token[:-1]], spelled[token[-1:]]] for token in ranks if len(token) > 1],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
    }
    if chat_template is not None:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def constant_decoder(reply: str, **changes: Any) -> TransformerDecoder:
    """A Llama whose answer to everything is ``reply``, a text of distinct single-byte tokens, then the end of turn.

    Each token's embedding points along an axis of its own, the layers add nothing, and the output head leads from
    each token to the one that follows it. ``changes`` are to the arguments of the builder.
    """
    decoder = random_decoder(tiny_llm(**changes))
    ranks = tiny_ranks()
    chain = [ranks[b"\n\n"], *(ranks[letter.encode()] for letter in reply)]
    chain.append(llama3_special_tokens(len(ranks))["<|eot_id|>"])
    assert len(set(chain)) == len(chain)
    with torch.no_grad():
        for layer in decoder.layers:
            layer.attn.output_proj.weight.zero_()
            layer.mlp.w2.weight.zero_()
        decoder.tok_embeddings.weight.zero_()
        decoder.output.weight.zero_()
        for axis, (token, following) in enumerate(itertools.pairwise(chain)):
            decoder.tok_embeddings.weight[token, axis] = 1.0
            decoder.output.weight[following, axis] = 1.0
    return decoder


def _byte_letters() -> dict[int, str]:
    """The printable letter that stands for each byte in byte-level BPE (GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + position) for position, byte in enumerate(others)}
