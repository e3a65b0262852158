"""Write a run's language model with its adapters added into the weights, as a Hugging Face folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torchtune.models.llama3 import Llama3Tokenizer

from medcap.checkpoints.atomic import atomic_folder
from medcap.checkpoints.build_model import ModelPlan, plan_model
from medcap.checkpoints.experts import refuse_experts
from medcap.checkpoints.frozen_llm import LLMPlan
from medcap.checkpoints.hf_llama_writer import CHAT_TEMPLATE, is_llama, llama_config, token_ids, write_fast_tokenizer
from medcap.checkpoints.keys import ModelConfiguration
from medcap.checkpoints.llm_architecture import build_decoder, describe
from medcap.checkpoints.llm_fingerprint import llm_fingerprint
from medcap.checkpoints.run import read_run
from medcap.checkpoints.tokenizer_files import LLAMA3_TOKENIZER, TEMPLATE_FILES, copy_tokenizer_files
from medcap.checkpoints.weight_shards import write_shards
from medcap.errors import UserError
from medcap.export.formats import DTYPES, GIGABYTE, check_empty
from medcap.export.llava.language import PREFIX, language_dtype, language_tensors
from medcap.files import write_json
from medcap.models.component import Component
from medcap.models.llama3_tokenizer_file import tiktoken_file
from medcap.models.template_tokenizer import TransformersTokenizer
from medcap.models.words import AddedWords

DESCRIPTION_FILE = "merge.json"


@dataclass(frozen=True)
class MergeOptions:
    """How the merged weights are stored.

    Attributes:
        dtype: name of a dtype in ``DTYPES``; "auto" is the dtype of the language model's files.
        shard_bytes: maximum bytes of a weight file.
    """

    dtype: str = "auto"
    shard_bytes: int = 5 * GIGABYTE


def merge_run(
    run: str | Path, out: str | Path, overrides: Sequence[str] = (), options: MergeOptions | None = None
) -> list[str]:
    """Write a run's language model with its adapters merged; the folder appears whole or not at all.

    Args:
        run: the run's folder, or one of its checkpoint folders.
        out: folder to write; it must be new or empty.
        overrides: ``key=value`` overrides of model keys, as for ``read_run``.
        options: see :class:`MergeOptions`.

    Returns:
        Lines that the user should see.

    Raises:
        UserError: if the run has no adapters, its language model is not a Llama, or ``out`` is not empty.
    """
    options = options or MergeOptions()
    target = Path(out).expanduser()
    check_empty(target)
    cfg = read_run(run, overrides)
    plan = plan_model(cfg)
    changing = [part for part in plan.further if part.kind.changes_language_model]
    # Rows beside the tables belong to no weight: they stay a component of the run.
    adapters = [part for part in changing if part.name != AddedWords.name]
    if not adapters:
        raise UserError(f"{run} has no adapters to merge: the weights of its language model are the untouched ones")
    refuse_experts(adapters)
    if not is_llama(build_decoder(plan.llm.llm)):
        raise UserError(
            f"llm._component_={plan.llm.llm['_component_']} cannot be merged: medcap merge writes Llama and Mistral as"
            " torchtune builds them; medcap chat, web and serve use the run's adapters as they are"
        )
    stored = language_dtype(plan.llm)
    dtype = DTYPES[options.dtype] or stored
    built = [part.build(plan) for part in adapters]
    with atomic_folder(target, marked=False) as folder:
        named = _write_tokenizer(folder, cfg, plan)
        write_json(folder / "config.json", _config(plan, dtype))
        tensors = language_tensors(plan.llm, dtype, built)
        own_names = [replace(tensor, name=tensor.name.removeprefix(PREFIX)) for tensor in tensors]
        write_shards(folder, own_names, options.shard_bytes, "language model")
        write_json(folder / DESCRIPTION_FILE, _description(plan.llm, built, stored, dtype))
    notices = []
    if dtype.itemsize < 4:
        notices.append(
            f"the sums are rounded to {_name(dtype)}, so answers may differ a little from the run's; --dtype fp32 does"
            " not round them"
        )
    if plan.llm.llm_weights != "bf16":
        notices.append(
            f"the run was trained with {plan.llm.llm_weights} language-model weights, the merged model has the original"
            " ones: answers may differ a little"
        )
    if len(adapters) < len(changing):
        notices.append(
            "the run's words are not in the merged language model, whose tables keep their size: medcap export --format"
            " hf writes them into larger tables"
        )
    if not named:
        notices.append("the language model's folder holds no tokenizer, so the merged folder has none: copy one there")
    return notices


def _write_tokenizer(folder: Path, cfg: ModelConfiguration, plan: ModelPlan) -> list[str]:
    """Write the tokenizer's files and return their names; with Meta's weights only Llama 3's can be written."""
    files = plan.llm.files
    tokenizer: Any = plan.tokenizer.tokenizer
    if files.kind == "hugging_face":
        names = copy_tokenizer_files(files.folder, folder, TEMPLATE_FILES)
        if isinstance(tokenizer, TransformersTokenizer):
            # The template of the training, which another file may have given.
            (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
        return names
    if not isinstance(tokenizer, Llama3Tokenizer):
        return []
    with tiktoken_file(cfg.tokenizer["path"]) as file:
        write_fast_tokenizer(folder, tokenizer, file, plan.llm.max_seq_len, CHAT_TEMPLATE)
        (folder / LLAMA3_TOKENIZER).parent.mkdir()
        shutil.copyfile(file, folder / LLAMA3_TOKENIZER)
    write_json(folder / "generation_config.json", token_ids(tokenizer) | {"do_sample": False})
    return [LLAMA3_TOKENIZER]


def _config(plan: ModelPlan, dtype: torch.dtype) -> dict[str, Any]:
    """Return the language model's own config.json, or make one from its shape if it has none."""
    shape = describe(build_decoder(plan.llm.llm))
    config = plan.llm.files.config or llama_config(shape, dtype)
    if plan.llm.files.config is None and isinstance(plan.tokenizer.tokenizer, Llama3Tokenizer):
        config |= token_ids(plan.tokenizer.tokenizer)
    # _name_or_path would name the base's old folder. Releases of transformers differ on dtype; all read torch_dtype.
    config = {key: value for key, value in config.items() if key not in ("_name_or_path", "dtype")}
    return config | {
        "tie_word_embeddings": shape.tied or plan.llm.shares_embedding,
        "torch_dtype": _name(dtype),
    }


def _description(
    llm: LLMPlan, adapters: Sequence[Component], stored: torch.dtype, dtype: torch.dtype
) -> dict[str, Any]:
    return {
        "base": {
            "name": llm.files.folder.absolute().name,
            "dtype": _name(stored),
            "sha256": llm.fingerprint(stored),
        },
        "components": {part.name: {**part.config(), "sha256": llm_fingerprint(part)} for part in adapters},
        "dtype": _name(dtype),
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
