"""A run as the folder that transformers' LlavaForConditionalGeneration loads, without a line of custom code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torchtune.models.llama3 import Llama3Tokenizer

from medcap.checkpoints.build_model import ModelPlan
from medcap.checkpoints.hf_llama_writer import token_ids
from medcap.checkpoints.weight_shards import PendingTensor, write_shards
from medcap.errors import UserError
from medcap.export.llava.check import check_prompts
from medcap.export.llava.language import check_language, language_config, language_dtype, language_tensors
from medcap.export.llava.processor import check_tokenizer, write_processor, write_tokenizer
from medcap.export.llava.vision import (
    PROJECTOR_PREFIX,
    TOWER_PREFIX,
    LlavaTower,
    check_tower,
    llava_projector,
    llava_tower,
)
from medcap.files import write_json
from medcap.models.projectors.base import build_projector
from medcap.models.towers.registry import build_tower

# Key of config.json for the words that this project has added to the language model's own.
ADDED_WORDS = "medcap_added_words"


def check_llava(plan: ModelPlan) -> None:
    """See whether LLaVA can be this model, before weights are read.

    Raises:
        UserError: saying what it has no place for.
    """
    check_language(plan.llm)
    check_tokenizer(plan.tokenizer, plan.llm.vocab_size)
    vision = plan.vision
    if vision.preprocess.tiles:
        raise UserError(
            "--format hf: LLaVA shows each image in one picture, and this run cuts it into up to"
            f" {vision.preprocess.tiles} tiles beside; train with vision.tiles=0 to export it, or serve the run itself"
        )
    with torch.device("meta"):
        llava_tower(build_tower(vision.tower_spec, vision.preprocess))
        llava_projector(build_projector(vision.projector_config, vision.shape, vision.llm_dim), vision.llm_dim)


def write_llava(
    folder: Path, plan: ModelPlan, tokenizer_file: Path, dtype: torch.dtype | None, shard_bytes: int
) -> None:
    """Write the folder: configuration, tokenizer, processor and weights.

    It proves itself while it is written: transformers' tower must see what ours does, and its processor must make the
    ids that ours makes.

    Args:
        folder: empty.
        plan: that :func:`check_llava` has passed.
        tokenizer_file: Llama 3's tokenizer.model.
        dtype: dtype of the stored weights; None keeps that of the language model's files, for the vision side too.
        shard_bytes: most bytes of a weight file.

    Raises:
        UserError: if a proof fails.
    """
    image_token = check_tokenizer(plan.tokenizer, plan.llm.vocab_size)
    inner: Any = plan.tokenizer.tokenizer
    tower, projector = plan.vision.build()
    exported = llava_tower(tower)
    check_tower(tower, exported)
    stored = dtype or language_dtype(plan.llm)
    write_tokenizer(folder, plan.tokenizer, tokenizer_file, image_token, plan.llm.max_seq_len)
    write_processor(folder, exported, tower.preprocess)
    check_prompts(folder, plan.tokenizer, image_token, tower.preprocess.image_size)
    # Behind the check: beside a config.json transformers would look at the language model's positions too, and warn
    # where they are fewer than Llama 3.1's frequencies were made for, which is right for a run with short ones.
    write_json(folder / "config.json", _config(plan, exported, image_token, stored))
    write_json(folder / "generation_config.json", _generation_config(plan, inner))
    tensors = [
        *_vision_tensors(TOWER_PREFIX, exported.tensors, stored),
        *_vision_tensors(PROJECTOR_PREFIX, llava_projector(projector, plan.llm.dim), stored),
        *language_tensors(plan.llm, dtype, [component.build(plan) for component in plan.further]),
    ]
    write_shards(folder, tensors, shard_bytes, "weights")


def _config(plan: ModelPlan, tower: LlavaTower, image_token: int, dtype: torch.dtype) -> dict[str, Any]:
    added = plan.tokenizer.added
    vocab_size = plan.llm.vocab_size if added is None else added.end
    language = language_config(plan.llm, vocab_size) | token_ids(cast(Llama3Tokenizer, plan.tokenizer.tokenizer))
    name = str(dtype).removeprefix("torch.")
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": image_token,
        "image_seq_length": plan.vision.num_image_tokens,
        "multimodal_projector_bias": True,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": tower.select_strategy,
        "tie_word_embeddings": language["tie_word_embeddings"],
        "torch_dtype": name,
        "text_config": language | {"torch_dtype": name},
        "vision_config": tower.config | {"torch_dtype": name},
        # What medcap import takes the words off the tables by.
        **({} if added is None else {ADDED_WORDS: {"tokens": added.words, "image_words": added.image_words}}),
    }


def _generation_config(plan: ModelPlan, tokenizer: Any) -> dict[str, Any]:
    config = token_ids(tokenizer) | {"do_sample": False}
    # medcap never lets an answer hold the character that stands for an image in its own prompts.
    if plan.tokenizer.image_token_id < plan.llm.vocab_size:
        config["suppress_tokens"] = [plan.tokenizer.image_token_id]
    return config


def _vision_tensors(prefix: str, tensors: dict[str, Tensor], dtype: torch.dtype) -> list[PendingTensor]:
    return [
        PendingTensor(prefix + name, tuple(tensor.shape), dtype, lambda tensor=tensor: tensor)
        for name, tensor in tensors.items()
    ]
