"""Which language models of transformers can be taken: from their config.json, before a weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medcap.errors import UserError
from medcap.models.towers.tensor_files import read_json

CONFIG_FILE = "config.json"
# The remedy for a model that cannot be taken.
TAKE = "take a model with full or sliding-window attention, such as Qwen3, Gemma 3, Phi-3, Mistral or Llama"
# Attention that reads all keys before a query, or those within a window of positions.
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
# Keys of a config.json that are 0, false or absent in the models that can be taken -> what they stand for.
_REFUSED_KEYS = {
    "attention_chunk_size": "attention in chunks",
    "use_bidirectional_attention": "attention to later tokens",
    "hidden_size_per_layer_input": "an embedding of each token for each layer, which an image has not",
    "num_kv_shared_layers": "layers that share keys and values",
}
# These stretch the rotary angles of all tokens as soon as one of a batch is further than the first length.
_BATCH_DEPENDENT_ROPE = ("dynamic", "longrope")


def read_config(path: str) -> Any:
    """Read the configuration of a language model's text part.

    Args:
        path: folder of the model as downloaded, or its config.json.

    Returns:
        transformers' configuration; for a model of several modalities, that of its text part.

    Raises:
        UserError: if the file is missing, is of no causal language model of transformers, or names layers that cannot
            honour the masks of packed samples.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, __version__

    file = Path(path) / CONFIG_FILE if Path(path).is_dir() else Path(path)
    try:
        content = read_json(file)
    except UserError as error:
        raise UserError(f"llm: medcap.models.transformers_decoder reads a model's config.json: {error}") from None
    kind = content.get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{file}: it names no model_type: copy or download it again")
    if kind not in CONFIG_MAPPING:
        if content.get("auto_map"):
            raise UserError(
                f"{file}: this model brings its own code (auto_map), which medcap never runs: take a model that"
                " transformers has a class for"
            )
        raise UserError(
            f"{file}: transformers {__version__} does not know model_type={kind}: install a newer transformers, or take"
            " another model"
        )
    try:
        # Read by transformers, which writes infinity in a way of its own.
        whole = CONFIG_MAPPING[kind].from_dict(CONFIG_MAPPING[kind].get_config_dict(file)[0])
        config = whole.get_text_config(decoder=True)
        config.tie_word_embeddings = any(getattr(part, "tie_word_embeddings", False) for part in (config, whole))
    except Exception as error:  # whatever transformers raises for values that it does not take
        raise UserError(f"{file}: transformers cannot read it: {error}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{file}: model_type={kind} has no causal language model in transformers: {TAKE}")
    check_layers(config, str(file))
    return config


def check_layers(config: Any, where: str) -> None:
    """See that the layers that a configuration names can honour masks.

    Args:
        config: of a text model.
        where: its file, for messages.

    Raises:
        UserError: if they cannot.
    """
    kinds = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
    if kinds:
        raise UserError(f"{where}: {config.model_type} has layers of {', '.join(sorted(kinds))}, {_UNFIT}")
    for key, meaning in _REFUSED_KEYS.items():
        if getattr(config, key, None):
            raise UserError(f"{where}: {config.model_type} has {meaning} ({key}), {_UNFIT}")


_UNFIT = f"with which samples cannot share a row: {TAKE}"


def why_unfit(reason: str, where: str, kind: str) -> UserError:
    """Word the refusal of a model whose layers turn out not to honour masks."""
    return UserError(f"{where}: {kind} {reason}, {_UNFIT}")


def longest_sequence(config: Any) -> int:
    """Return the positions that a model may use: no further than where the length of a batch changes its angles."""
    longest = config.max_position_embeddings
    rope: Any = getattr(config, "rope_parameters", None) or {}
    for part in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if part.get("rope_type") in _BATCH_DEPENDENT_ROPE:
            first = part.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            longest = min(longest, first or longest)
    return longest
