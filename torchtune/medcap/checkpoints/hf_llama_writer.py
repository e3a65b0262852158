"""Writes a torchtune Llama 3 or 3.1 as the folder that Hugging Face users know."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.models.llama3_1 import Llama3ScaledRoPE
from torchtune.modules import RMSNorm, RotaryPositionalEmbeddings, TransformerDecoder

from medcap.checkpoints.atomic import atomic_folder
from medcap.checkpoints.llm_architecture import DecoderShape, describe
from medcap.checkpoints.llm_conversion import hugging_face_conversion
from medcap.checkpoints.weight_shards import PendingTensor, write_shards
from medcap.data.added_tokens import AddedTokens
from medcap.errors import UserError
from medcap.files import write_json
from medcap.models.decoders.transformers_model import Decoder, TransformersDecoder
from medcap.models.tokenizers import IMAGE_TOKEN, NUM_SPECIAL_TOKENS, llama3_tokenizer, uncached_tiktoken

BOS = "<|begin_of_text|>"

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def write_hugging_face_llama(
    folder: str | Path, decoder: TransformerDecoder, architecture: dict[str, Any], tokenizer_file: str | Path
) -> None:
    """Write a folder that transformers' LlamaForCausalLM and AutoTokenizer load, and torchtune and medcap too.

    It appears whole or not at all. Beside the weights (one safetensors file) and the configuration it holds the
    tokenizer twice: tokenizer.json for transformers and original/tokenizer.model for torchtune.

    Args:
        folder: must not exist, or be empty.
        decoder: decoder of torchtune's ``llama3``, ``llama3_1`` or ``llama3_2``, with real weights.
        architecture: the arguments that built it; they must agree with it.
        tokenizer_file: tiktoken's format, as Llama 3's tokenizer.model.

    Raises:
        UserError: if the folder holds something already, or the tokenizer file is of another format.
        ValueError: if the decoder is not such a Llama or was built with other arguments.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already: remove it, or choose another folder for the LLM")
    shape = _checked_shape(decoder, architecture)
    tokenizer = llama3_tokenizer(str(tokenizer_file))
    weights = hugging_face_conversion(decoder).to_checkpoint(decoder.state_dict())
    tensors = [
        PendingTensor(name, tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor.detach())
        for name, tensor in weights.items()
    ]
    with atomic_folder(target, marked=False) as temporary:
        write_shards(temporary, tensors, sum(tensor.num_bytes for tensor in tensors), "language model")
        dtype = decoder.tok_embeddings.weight.dtype
        write_json(temporary / "config.json", llama_config(shape, dtype) | token_ids(tokenizer))
        write_json(temporary / "generation_config.json", token_ids(tokenizer) | {"do_sample": False})
        write_fast_tokenizer(temporary, tokenizer, Path(tokenizer_file), shape.max_seq_len, CHAT_TEMPLATE)
        (temporary / "original").mkdir()
        shutil.copyfile(tokenizer_file, temporary / "original" / "tokenizer.model")


def is_llama(decoder: Decoder) -> bool:
    """Return whether transformers' LlamaForCausalLM computes what this decoder does."""
    if isinstance(decoder, TransformersDecoder):
        return False
    layer: Any = decoder.layers[0]
    plain = isinstance(layer.attn.pos_embeddings, RotaryPositionalEmbeddings | Llama3ScaledRoPE)
    biased = layer.attn.q_proj.bias is not None
    return plain and not biased and isinstance(layer.sa_norm, nn.RMSNorm | RMSNorm)


def _checked_shape(decoder: TransformerDecoder, architecture: dict[str, Any]) -> DecoderShape:
    if not is_llama(decoder):
        raise ValueError("only torchtune's llama3, llama3_1 and llama3_2 decoders can be written as a Llama")
    shape = describe(decoder)
    for key, given in architecture.items():
        if getattr(shape, key, given) != given:
            raise ValueError(f"architecture has {key}={given}, the decoder {getattr(shape, key)}")
    return shape


def llama_config(shape: DecoderShape, dtype: torch.dtype) -> dict[str, Any]:
    """Return a Llama's ``config.json``, without the ids of special tokens.

    Args:
        shape: the decoder's.
        dtype: dtype of the stored weights.
    """
    scaling = shape.rope_scaling
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.embed_dim,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_dim,
        "max_position_embeddings": shape.max_seq_len,
        "mlp_bias": False,
        "num_attention_heads": shape.num_heads,
        "num_hidden_layers": shape.num_layers,
        "num_key_value_heads": shape.num_kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": shape.norm_eps,
        "rope_scaling": None if scaling is None else {"rope_type": "llama3", **vars(scaling)},
        "rope_theta": shape.rope_base,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }


def token_ids(tokenizer: Llama3Tokenizer) -> dict[str, Any]:
    """Return the ids of special tokens, as ``config.json`` and ``generation_config.json`` name them."""
    stop = [tokenizer.eos_id, tokenizer.eom_id, tokenizer.eot_id]
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": stop, "pad_token_id": tokenizer.pad_id}


def write_fast_tokenizer(
    folder: Path,
    tokenizer: Llama3Tokenizer,
    file: Path,
    max_seq_len: int,
    chat_template: str,
    renamed: Mapping[int, str] | None = None,
    adds_bos: bool = True,
    added: AddedTokens | None = None,
) -> None:
    """Write tokenizer.json and tokenizer_config.json, which make the same ids.

    Args:
        folder: where.
        tokenizer: torchtune's.
        file: its tokenizer.model.
        max_seq_len: positions of the language model.
        chat_template: chat template for ``apply_chat_template``.
        renamed: id -> another name for it, among the special tokens.
        adds_bos: whether text without a template begins with the begin-of-text token.
        added: words that are one token each, after the others.
    """
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    names = _special_names(tokenizer, renamed or {}, None if added is None else added.first_id)
    with uncached_tiktoken():
        fast = TikTokenConverter(vocab_file=str(file), extra_special_tokens=names).converted()
    if added is not None:
        # Not special, so that an answer shows them; not normalised, so that only the exact letters count.
        fast.add_tokens([AddedToken(word, special=False, normalized=False) for word in added.words])
    steps: list[Any] = [processors.ByteLevel(trim_offsets=False)]
    if adds_bos:
        begun = {"single": f"{BOS} $A", "pair": f"{BOS} $A {BOS}:1 $B:1"}
        steps.append(processors.TemplateProcessing(**begun, special_tokens=[(BOS, tokenizer.bos_id)]))
    fast.post_processor = processors.Sequence(steps)
    PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=BOS,
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        # [Contract] of a batch that is padded on the right, generate() would go on after the padding.
        padding_side="left",
        model_max_length=max_seq_len,
        # transformers 4 would add token_type_ids, which its generate() then refuses.
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder, save_jinja_files=False)
    # The name that both transformers 4 and 5 know; 5 writes one that 4 does not.
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(folder / "tokenizer_config.json", settings | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _special_names(tokenizer: Llama3Tokenizer, renamed: Mapping[int, str], end: int | None = None) -> list[str]:
    """Return the names at n to n + 255, or before ``end``: a tokenizer.json numbers them, so free slots need names."""
    first = tokenizer.base_vocab_size
    names = {token: name for name, token in tokenizer.special_tokens.items()} | dict(renamed)
    free = [token for token in range(first, end or first + NUM_SPECIAL_TOKENS) if token not in names]
    # [Contract] of two slots of one name a tokenizer.json keeps one, and every id behind it is one too low.
    names |= {token: f"<|reserved_special_token_{token}|>" for token in free}
    if free and IMAGE_TOKEN not in names.values():
        names[free[0]] = IMAGE_TOKEN
    return [names[token] for token in range(first, end or first + NUM_SPECIAL_TOKENS)]
