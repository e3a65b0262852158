"""The language model inside a LLaVA folder: its configuration, and its tensors under transformers' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchtune.modules import TransformerDecoder

from medcap.checkpoints.frozen_llm import LLMPlan
from medcap.checkpoints.hf_llama_writer import is_llama, llama_config
from medcap.checkpoints.llm_architecture import build_decoder, describe
from medcap.checkpoints.llm_conversion import conversion_for, hugging_face_conversion
from medcap.checkpoints.llm_files import TensorReader
from medcap.checkpoints.weight_shards import PendingTensor
from medcap.errors import UserError
from medcap.models.component import Component
from medcap.modules.added_rows import start_rows

PREFIX = "language_model."


def check_language(plan: LLMPlan) -> None:
    """See that transformers' LlamaForCausalLM is this language model.

    Raises:
        UserError: if it is of another family.
    """
    if not is_llama(build_decoder(plan.llm)):
        raise UserError(
            f"--format hf: llm._component_={plan.llm['_component_']} is not torchtune's Llama, and only Llama 3,"
            " 3.1 and 3.2 are exported with their tokenizer so far; --format vision writes the encoder, --format medcap"
            " the vision side of a pooled_mlp run"
        )


def language_config(plan: LLMPlan, vocab_size: int) -> dict[str, Any]:
    """``text_config`` of a LLaVA's config.json.

    Args:
        plan: plan of a Llama.
        vocab_size: rows of the tables, with those of added tokens.
    """
    config = llama_config(describe(build_decoder(plan.llm)), language_dtype(plan))
    return config | {"tie_word_embeddings": plan.tied, "vocab_size": vocab_size}


def language_dtype(plan: LLMPlan) -> torch.dtype:
    """Return the dtype that the checkpoint's files have: that of the embedding table."""
    conversion = conversion_for(build_decoder(plan.llm), plan.files.kind)
    dtype = plan.files.headers[conversion.embedding][0].dtype
    assert dtype is not None, "plan_llm takes floating-point tensors only"
    return dtype


def language_tensors(
    plan: LLMPlan, dtype: torch.dtype | None, components: Sequence[Component] = ()
) -> list[PendingTensor]:
    """Return the tensors, to be read one at a time.

    Args:
        plan: plan of a Llama.
        dtype: dtype to store them in; None keeps that of the files.
        components: components whose ``added_weight`` goes into the tensors, and whose ``added_rows`` follow them.

    Returns:
        Names as ``language_model.model.layers.0.self_attn.q_proj.weight``; no ``lm_head`` where the embedding table is
        the output projection.
    """
    decoder = build_decoder(plan.llm)
    assert isinstance(decoder, TransformerDecoder), "a Llama"
    to_decoder = conversion_for(decoder, plan.files.kind).to_decoder
    to_hugging_face = hugging_face_conversion(decoder).to_checkpoint
    reader = TensorReader(plan.files)

    def convert(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        if plan.files.kind == "hugging_face":
            return name, tensor
        ((converted, result),) = to_hugging_face(to_decoder({name: tensor})).items()
        return converted, result

    tensors = []
    expected = conversion_for(decoder, plan.files.kind).expected(decoder)
    for source, dim in plan.sources.items():
        if source == plan.copied_output:
            continue
        shape = expected[source]
        name, _ = convert(source, torch.empty(shape, device="meta"))
        stored_dtype = dtype or plan.files.headers[source][0].dtype
        assert stored_dtype is not None, "plan_llm takes floating-point tensors only"

        (own,) = to_decoder({source: torch.empty(shape, device="meta")})

        def read(source: str = source, dim: int | None = dim, own: str = own) -> Tensor:
            tensor = convert(source, reader.read(source, dim))[1]
            for component in components:
                added = component.added_weight(own)
                if added is not None:
                    ((_, added),) = to_hugging_face({own: added}).items()
                    tensor = tensor.float() + added
            return tensor

        tensors.append(_with_rows(PendingTensor(PREFIX + name, shape, stored_dtype, read), own, components))
    return tensors


def _with_rows(table: PendingTensor, own: str, components: Sequence[Component]) -> PendingTensor:
    """Let the rows of added tokens follow a table; ``own`` is its name in the decoder."""
    further = [rows.detach() for component in components if (rows := component.added_rows(own)) is not None]
    if not further:
        return table

    def read() -> Tensor:
        tensor = table.read()
        # Rows without values are those of words that nothing has trained yet.
        return torch.cat([part.to(table.dtype) for part in (tensor, *(start_rows(rows, tensor) for rows in further))])

    shape = (table.shape[0] + sum(map(len, further)), *table.shape[1:])
    return PendingTensor(table.name, shape, table.dtype, read)
