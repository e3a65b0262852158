"""A small tokenizer for each family of decoders, made like the released ones."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece

from helpers.chat_template_folders import CHAT_FAMILIES, chat_template_folder
from helpers.tokenizers import tiny_tokenizer_file

# Those whose tokenizer.json and chat template are read.
OWN_TEMPLATE = tuple(f"own_{family}" for family in CHAT_FAMILIES)
FAMILIES = ("llama2", "llama3", "mistral", "phi3", "gemma", "gemma_chat", "qwen2_5", *OWN_TEMPLATE)
_TEXTS = ("Chest X-ray shows clear lungs.", "What is shown in the image?", "user assistant model", "[INST] [/INST] SYS")
_GEMMA_SYMBOLS = ["<start_of_turn>", "<end_of_turn>", "[multimodal]", "<b>", "</b>"]
_GEMMA_TURNS = {
    "system": ["", "\n"],
    "user": ["<start_of_turn>user\n", "<end_of_turn>\n"],
    "assistant": ["<start_of_turn>model\n", "<end_of_turn>\n"],
    "ipython": ["", ""],
}


def family_tokenizer(family: str, folder: Path) -> Any:
    """Build a tokenizer.

    Args:
        family: one of ``FAMILIES``; ``gemma`` has no prompt template, ``gemma_chat`` has Gemma's own marks.
        folder: its files are written here.

    Returns:
        torchtune's tokenizer. The SentencePiece ones fall back to bytes and change no text, as the released ones do;
        that of Qwen 2.5 has a token for every byte and no merges.
    """
    from torchtune.data._prompt_templates import PromptTemplate
    from torchtune.models.gemma import gemma_tokenizer
    from torchtune.models.llama2 import llama2_tokenizer
    from torchtune.models.mistral import mistral_tokenizer
    from torchtune.models.phi3 import phi3_mini_tokenizer
    from torchtune.models.qwen2_5 import qwen2_5_tokenizer

    from medcap.models.template_tokenizer import transformers_tokenizer
    from medcap.models.tokenizers import llama3_tokenizer

    if family in OWN_TEMPLATE:
        return transformers_tokenizer(str(chat_template_folder(family.removeprefix("own_"), folder)))
    if family == "llama3":
        return llama3_tokenizer(str(tiny_tokenizer_file(folder)))
    if family == "qwen2_5":
        return qwen2_5_tokenizer(*byte_level_files(folder))
    symbols = _GEMMA_SYMBOLS if family.startswith("gemma") else []
    file = str(sentencepiece_file(folder, symbols))
    if family == "gemma_chat":
        tokenizer = gemma_tokenizer(file)
        tokenizer.prompt_template = PromptTemplate({role: tuple(marks) for role, marks in _GEMMA_TURNS.items()})
        return tokenizer
    builders = {
        "llama2": llama2_tokenizer,
        "mistral": mistral_tokenizer,
        "phi3": phi3_mini_tokenizer,
        "gemma": gemma_tokenizer,
    }
    return builders[family](file)


def sentencepiece_file(folder: Path, symbols: list[str] | None = None) -> Path:
    """Train ``folder/sentencepiece.model``: BPE with bytes, and user-defined symbols."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXTS * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=360,
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=symbols or [],
        minloglevel=2,
    )
    path = folder / "sentencepiece.model"
    path.write_bytes(model.getvalue())
    return path


def byte_level_files(folder: Path) -> tuple[str, str]:
    """Write ``vocab.json`` and ``merges.txt`` of a Qwen tokenizer without merges: every byte is a token."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    (folder / "vocab.json").write_text(json.dumps({letter: rank for rank, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return str(folder / "vocab.json"), str(folder / "merges.txt")
