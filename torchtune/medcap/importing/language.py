"""The torchtune builder and tokenizer for a language model that Hugging Face's config.json describes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from medcap.checkpoints.llm_architecture import build_decoder, config_mismatches, describe
from medcap.checkpoints.llm_files import LLMFiles, TensorReader, find_llm_files
from medcap.checkpoints.tokenizer_files import LLAMA3_TOKENIZER
from medcap.checkpoints.weight_shards import PendingTensor
from medcap.errors import UserError
from medcap.importing.imported_model import ImportedLanguage
from medcap.models.foreign_files import check_file
from medcap.models.llama3_tokenizer_file import is_tiktoken, tokenizer_model
from medcap.models.tokenizer_folder import TOKENIZER_JSON, find_chat_template
from medcap.models.towers.tensor_files import check_finite, read_json

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
_LLAMA3_RANKS = 128_000
_LLAMA3_COMPONENT = "medcap.models.llama3_tokenizer"


class SourceTensors:
    """The tensors of a folder, by name, one at a time.

    Args:
        folder: folder with safetensors files.

    Raises:
        UserError: if it holds none, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.files: LLMFiles = find_llm_files(folder)
        except UserError as error:
            message = str(error).replace("checkpointer.checkpoint_dir", "SOURCE")
            raise UserError(
                f"{message} (medcap import reads safetensors; save the model again in that format)"
            ) from error
        self._reader = TensorReader(self.files)

    def named(self, rename: Callable[[str], str | None]) -> dict[str, Tensor]:
        """Read the tensors that get a name, as fp32.

        Raises:
            UserError: if one holds NaN or infinity.
        """
        names = {name: new for name in self.files.headers if (new := rename(name)) is not None}
        tensors = {}
        for name, new in names.items():
            tensors[new] = self._reader.read(name).float().clone()
            check_finite(tensors[new], self.files.headers[name][0].path, name)
        return tensors

    def pending(self, rename: Callable[[str], str | None]) -> list[PendingTensor]:
        """Return the tensors that get a name, to be read when they are written."""
        result = []
        for name, (header, *_) in self.files.headers.items():
            new = rename(name)
            if new is not None and header.dtype is not None:
                result.append(PendingTensor(new, header.shape, header.dtype, lambda name=name: self._reader.read(name)))
        return result

    @property
    def names(self) -> list[str]:
        """All names."""
        return list(self.files.headers)


def llm_component(config: Mapping[str, Any], location: Path) -> dict[str, Any]:
    """Return the ``llm`` key for a Hugging Face Llama or Mistral.

    Args:
        config: config of the language model, with every field; see :func:`complete_config`.
        location: place of the configuration, for messages.

    Raises:
        UserError: for another family, or a variant that torchtune's builders lack.
    """
    if config.get("model_type") not in _ARCHITECTURES:
        raise UserError(
            f"{location}: the language model is a {config.get('model_type')}; medcap import knows llama and mistral"
        )
    rope = {**(config.get("rope_parameters") or {}), **(config.get("rope_scaling") or {})}
    theta = config.get("rope_theta", rope.get("rope_theta", 10000.0))
    builder = "llama3.llama3" if config["vocab_size"] >= _LLAMA3_RANKS else "llama2.llama2"
    llm: dict[str, Any] = {
        "_component_": f"torchtune.models.{'mistral.mistral' if config['model_type'] == 'mistral' else builder}",
        "vocab_size": config["vocab_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "num_kv_heads": config["num_key_value_heads"],
        "embed_dim": config["hidden_size"],
        "intermediate_dim": config["intermediate_size"],
        # Within its sliding window a Mistral attends to everything, as torchtune's does.
        "max_seq_len": min(config["max_position_embeddings"], config.get("sliding_window") or sys.maxsize),
        "norm_eps": config["rms_norm_eps"],
        # Whole numbers as the builders' defaults have them.
        "rope_base": int(theta),
    }
    if rope.get("rope_type", rope.get("type")) == "llama3":
        llm |= {"_component_": "torchtune.models.llama3_1.llama3_1", "scale_factor": int(rope["factor"])}
    if config.get("tie_word_embeddings"):
        llm |= {"_component_": "torchtune.models.llama3_2.llama3_2", "scale_factor": int(rope.get("factor", 1))}
    mistakes = config_mismatches(describe(build_decoder(llm)), config)
    if mistakes:
        raise UserError(f"{location}: no torchtune builder makes this language model: {', '.join(mistakes)}")
    return llm


def complete_config(config: Mapping[str, Any], location: Path) -> dict[str, Any]:
    """Fill in transformers' defaults: the folders of LLaVA leave out what is as in a 7B model.

    Args:
        config: config with ``model_type``.
        location: place of the configuration, for messages.

    Raises:
        UserError: if transformers refuses it.
    """
    from transformers import AutoConfig

    kind = config.get("model_type")
    if kind not in _ARCHITECTURES:
        raise UserError(
            f"{location}: the language model is a {kind}; medcap import knows {' and '.join(_ARCHITECTURES)}"
        )
    fields = {name: value for name, value in config.items() if name != "model_type"}
    own = {name: fields[name] for name in ("max_position_embeddings",) if name in fields}
    rope = {**_table(config.get("rope_parameters")), **_table(config.get("rope_scaling"))}
    made_for = rope.get("original_max_position_embeddings")
    if own and isinstance(made_for, int) and rope.get("rope_type") == "llama3":
        # A small model may have fewer positions than Llama 3.1's frequencies were made for; transformers warns of it.
        fields["max_position_embeddings"] = made_for + 1
    try:
        complete = AutoConfig.for_model(kind, **fields).to_dict()
    except Exception as error:  # transformers' validation raises classes of several libraries
        raise UserError(f"{location}: the language model's configuration is impossible: {error}") from error
    return complete | own | {"model_type": kind, "architectures": [_ARCHITECTURES[kind]]}


def tokenizer_component(folder: Path, model_type: str, named: Path | None) -> dict[str, Any]:
    """Return the ``tokenizer`` key.

    Args:
        folder: folder of the source.
        model_type: model type of the language model.
        named: a tokenizer.model that the user names instead.

    Returns:
        ``_component_`` and ``path``, below the folder or absolute; empty where the folder has no tokenizer.model.

    Raises:
        UserError: if the named file is not there, or the file is something else, such as a git-lfs pointer.
    """
    if named is not None and not named.is_file():
        raise UserError(f"--tokenizer {named}: no such file")
    if named is None:
        there = [name for name in (LLAMA3_TOKENIZER, "tokenizer.model") if (folder / name).is_file()]
        if not there:
            return {}
        path, file = there[0], folder / there[0]
    else:
        path, file = str(named.absolute()), named
    check_file(file, text=True)
    if is_tiktoken(file):
        return {"_component_": _LLAMA3_COMPONENT, "path": path}
    family = {"llama": "llama2.llama2", "mistral": "mistral.mistral"}[model_type]
    return {"_component_": f"torchtune.models.{family}_tokenizer", "path": path}


def stored_language(
    folder: Path, config: dict[str, Any], tensors: Sequence[PendingTensor], tokenizer: Path | None
) -> ImportedLanguage:
    """Return the language model of a source that holds one; its files are copied.

    Args:
        folder: folder of the source.
        config: config as :func:`complete_config` gives it.
        tensors: tensors under the names of a stand-alone language model.
        tokenizer: tokenizer as for :func:`tokenizer_component`.

    Raises:
        UserError: for a variant that torchtune's builders lack.
    """
    llm = llm_component(config, folder / "config.json")
    component, text = tokenizer_component(folder, config["model_type"], tokenizer), None
    if not component:
        text = tokenizer_model(folder / TOKENIZER_JSON)
        component = _own_tokenizer(folder)
        if text is not None:
            component = {"_component_": _LLAMA3_COMPONENT, "path": LLAMA3_TOKENIZER}
    return ImportedLanguage(llm, component, folder, config, tensors, text)


def named_language(folder: Path, tokenizer: Path | None) -> ImportedLanguage:
    """Return the language model of ``--llm``, which stays where it is.

    Args:
        folder: a Hugging Face Llama or Mistral.
        tokenizer: tokenizer as for :func:`tokenizer_component`.

    Raises:
        UserError: if it is none.
    """
    location = folder / "config.json"
    config = complete_config(read_json(location), location)
    component = tokenizer_component(folder, config["model_type"], tokenizer) or _own_tokenizer(folder)
    return ImportedLanguage(llm_component(config, location), component, folder)


def _own_tokenizer(folder: Path) -> dict[str, Any]:
    """Return the ``tokenizer`` key of a folder with tokenizer.json and a chat template; empty without them."""
    if not (folder / TOKENIZER_JSON).is_file() or find_chat_template(folder) is None:
        return {}
    return {"_component_": "medcap.models.transformers_tokenizer", "path": TOKENIZER_JSON}


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
