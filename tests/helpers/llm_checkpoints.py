"""Small LLM checkpoints with random weights in the exact formats of the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torchtune.models.convert_weights import tune_to_hf, tune_to_meta
from torchtune.modules import TiedLinear, TransformerDecoder

from helpers.tokenizers import tiny_tokenizer_file, tiny_vocab_size
from medcap.instantiate import find_component

_COLUMN_PARALLEL = ("wo.weight", "w2.weight")


def tiny_llm(builder: str = "torchtune.models.llama3_1.llama3_1", **changes: Any) -> dict[str, Any]:
    """The ``llm`` key of a two-layer Llama that goes with ``tiny_tokenizer_file``; ``changes`` replace arguments."""
    return {
        "_component_": builder,
        "vocab_size": tiny_vocab_size(),
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "embed_dim": 32,
        "intermediate_dim": 64,
        "max_seq_len": 256,
        **changes,
    }


def random_decoder(llm: dict[str, Any], seed: int = 0) -> TransformerDecoder:
    """Build the decoder of ``llm`` with seeded random weights, norms included, float32, in eval mode."""
    arguments = dict(llm)
    decoder = find_component(arguments.pop("_component_"), "llm")(**arguments)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if name.endswith("scale") else noise * parameter.shape[-1] ** -0.5)
    return decoder.eval()


def write_hugging_face_llm(folder: Path, decoder: TransformerDecoder, shards: int = 1, **changes: Any) -> Path:
    """Write a Llama as Hugging Face has it: config.json, safetensors files, original/tokenizer.model.

    Args:
        folder: where.
        decoder: decoder of a torchtune Llama builder.
        shards: 1 for ``model.safetensors``, else numbered files and ``model.safetensors.index.json``.
        changes: changes to config.json; None removes the key.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    attention, layer = decoder.layers[0].attn, decoder.layers[0]
    heads = {"num_heads": attention.num_heads, "num_kv_heads": attention.num_kv_heads}
    tensors = tune_to_hf(decoder.state_dict(), **heads, dim=decoder.tok_embeddings.embedding_dim)
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        names, weight_map = list(tensors), {}
        for number in range(shards):
            file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            part = {name: tensors[name] for name in names[number::shards]}
            save_file(part, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    rope = attention.pos_embeddings
    scaled = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaled |= {"factor": float(getattr(rope, "scale_factor", 0)), "original_max_position_embeddings": 8192}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": decoder.tok_embeddings.embedding_dim,
        "intermediate_size": layer.mlp.w1.out_features,
        "max_position_embeddings": decoder.max_seq_len,
        "num_attention_heads": attention.num_heads,
        "num_hidden_layers": len(decoder.layers),
        "num_key_value_heads": attention.num_kv_heads,
        "rms_norm_eps": layer.sa_norm.eps,
        "rope_scaling": scaled if hasattr(rope, "scale_factor") else None,
        "rope_theta": float(rope.base),
        "tie_word_embeddings": isinstance(decoder.output, TiedLinear),
        "torch_dtype": str(decoder.tok_embeddings.weight.dtype).removeprefix("torch."),
        "vocab_size": decoder.tok_embeddings.num_embeddings,
        **changes,
    }
    text = json.dumps({key: value for key, value in config.items() if key not in changes or value is not None})
    (folder / "config.json").write_text(text, encoding="utf-8")
    tiny_tokenizer_file(folder / "original")
    return folder


def write_meta_llm(folder: Path, decoder: TransformerDecoder, pieces: int = 1, embedding_dim: int = 0) -> Path:
    """Write a Llama as Meta has it: original/consolidated.NN.pth, params.json, tokenizer.model.

    Args:
        folder: where; the files go into ``original/``.
        decoder: decoder of a torchtune Llama builder.
        pieces: tensor-parallel files, as the 70B models have eight.
        embedding_dim: how the embeddings are split: 0 as in Llama 3, 1 as in Llama 2.

    Returns:
        The folder.
    """
    original = folder / "original"
    original.mkdir(parents=True, exist_ok=True)
    tensors = tune_to_meta(decoder.state_dict())
    if isinstance(decoder.output, TiedLinear):
        tensors["output.weight"] = tensors["tok_embeddings.weight"].clone()
    for number in range(pieces):
        part = {"rope.freqs": torch.ones(4)}
        for name, tensor in tensors.items():
            if "norm" in name:
                part[name] = tensor.clone()
            else:
                embedding = name == "tok_embeddings.weight" and embedding_dim == 1
                dim = 1 if embedding or name.endswith(_COLUMN_PARALLEL) else 0
                part[name] = tensor.chunk(pieces, dim)[number].clone()
        torch.save(part, original / f"consolidated.{number:02d}.pth")
    attention = decoder.layers[0].attn
    params = {
        "dim": decoder.tok_embeddings.embedding_dim,
        "n_layers": len(decoder.layers),
        "n_heads": attention.num_heads,
        "n_kv_heads": attention.num_kv_heads,
        "vocab_size": decoder.tok_embeddings.num_embeddings,
        "multiple_of": 256,
        "ffn_dim_multiplier": 1.3,
        "norm_eps": decoder.layers[0].sa_norm.eps,
        "rope_theta": float(attention.pos_embeddings.base),
    }
    if hasattr(attention.pos_embeddings, "scale_factor"):
        params["use_scaled_rope"] = True
    (original / "params.json").write_text(json.dumps(params), encoding="utf-8")
    tiny_tokenizer_file(original)
    return folder
