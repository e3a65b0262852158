"""The frozen language model: planned from headers, then streamed into memory tensor by tensor."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchtune.modules import TransformerDecoder
from torchtune.utils import get_world_size_and_rank
from tqdm import tqdm

from medcap.checkpoints.expert_files import holds_blocks, join_experts
from medcap.checkpoints.llm_architecture import (
    DecoderShape,
    build_decoder,
    config_mismatches,
    describe,
    linear_shapes,
    params_mismatches,
    with_files,
)
from medcap.checkpoints.llm_conversion import Conversion, concatenation_dim, conversion_for, is_rotary_table
from medcap.checkpoints.llm_files import LLMFiles, TensorReader, find_llm_files
from medcap.checkpoints.llm_fingerprint import hash_tensor
from medcap.errors import UserError
from medcap.models.decoders.transformers_model import Decoder, TransformersDecoder
from medcap.models.towers.tensor_files import check_finite, why_empty
from medcap.modules.frozen_layer import can_freeze, freeze_layers
from medcap.modules.frozen_linear import UNQUANTISED, check_layers, quantise_layer

_KEY = "checkpointer.checkpoint_dir"
_SHOWN_MISTAKES = 6
_LARGE_BYTES = 2**30
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True)
class LLMPlan:
    """A frozen LLM that is known to fit its files, before a weight is read.

    Attributes:
        llm: ``_component_`` and arguments of the builder.
        files: the checkpoint.
        sources: the file's tensor name -> the dimension along which its pieces are concatenated, or None.
        dim: width of the embeddings d.
        vocab_size: rows of the embedding table.
        max_seq_len: positions that the decoder knows.
        shares_embedding: the files have no output projection because it is the embedding table.
        continues_prompt_prefix: whether all layers can continue keys and values that were computed before.
        copied_output: the source that repeats the embedding table as output projection, where the decoder has one
            table for both.
        llm_weights: precision of the layers' linear maps, of ``LLM_WEIGHTS``; ``bf16`` is that of all else.
    """

    llm: dict[str, Any]
    files: LLMFiles
    sources: dict[str, int | None]
    dim: int
    vocab_size: int
    max_seq_len: int
    shares_embedding: bool
    copied_output: str | None
    continues_prompt_prefix: bool
    llm_weights: str = UNQUANTISED

    @property
    def tied(self) -> bool:
        """Whether one table serves as embedding and as output projection."""
        return self.shares_embedding or describe(build_decoder(self.llm)).tied

    def load(
        self,
        device: str | torch.device,
        dtype: torch.dtype,
        after_layer: Callable[[nn.Module], None] | None = None,
    ) -> Decoder:
        """Load the weights, layer by layer: never more than the model and one tensor are held.

        With low-precision ``llm_weights`` each layer is quantised once it is there: of what is not quantised yet, never
        more than that layer is held.

        Args:
            device: where the model goes.
            dtype: dtype of the parameters that are not quantised; rotary tables stay float32.
            after_layer: is called with each decoder layer once its weights are there, quantised, and before the next
                one's are read, such as to divide them over processes; the layer's rotary tables are still on the meta
                device.

        Returns:
            The decoder, frozen (``requires_grad`` False) and in eval mode.

        Raises:
            UserError: if the files hold another output projection than the embedding table that the decoder uses, or
                weights that are NaN or infinite.
        """
        decoder = build_decoder(self.llm)
        if isinstance(decoder, TransformerDecoder):
            freeze_layers(decoder)
        conversion = conversion_for(decoder, self.files.kind, self.files.headers)
        reader = TensorReader(self.files)
        total = sum(header.num_bytes for name in self.sources for header in self.files.headers[name])
        quiet = total < _LARGE_BYTES or get_world_size_and_rank()[1] != 0
        with tqdm(total=total, unit="B", unit_scale=True, desc="frozen LLM", disable=quiet) as progress:
            for number, sources in itertools.groupby(sorted(self.sources, key=_layer_number), key=_layer_number):
                for source in sources:
                    if source != self.copied_output:
                        tensor = reader.read(source, self.sources[source])
                        _stream(decoder, conversion.to_decoder({source: tensor}), device, dtype, self.files.folder)
                        del tensor
                    progress.update(sum(header.num_bytes for header in self.files.headers[source]))
                if number >= 0:
                    quantise_layer(decoder.layers[number], self.llm_weights)
                    if after_layer is not None:
                        after_layer(decoder.layers[number])
        if self.shares_embedding:
            _share_embedding(decoder)
        if self.copied_output:
            self._check_copied_output(self.copied_output, decoder.tok_embeddings.weight, reader)
        if isinstance(decoder, TransformersDecoder):
            decoder.rebuild_buffers(torch.device(device))
        else:
            _rebuild_rotary_tables(decoder, torch.device(device))
        for name, tensor in [*decoder.named_parameters(), *decoder.named_buffers()]:
            if tensor.is_meta:
                raise UserError(f"llm._component_={self.llm['_component_']}: no checkpoint fills {name}")
        return decoder.requires_grad_(False).eval()

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Return the linear maps of the layers: name in the decoder -> output and input width."""
        return linear_shapes(build_decoder(self.llm))

    def fingerprint(self, dtype: torch.dtype) -> str:
        """``llm_fingerprint`` of the model in a dtype before it is quantised, from the files alone.

        It names the language model whatever ``llm_weights`` is. Never more than one layer is held.

        Args:
            dtype: dtype of the parameters.
        """
        conversion = conversion_for(decoder := build_decoder(self.llm), self.files.kind, self.files.headers)
        reader = TensorReader(self.files)
        digest = hashlib.sha256()
        # Names are hashed in alphabetical order: layers, layer 10 before layer 2, then what belongs to none.
        # Of transformers' decoder each tensor is a group.
        group = (lambda source: _renamed(conversion, source)) if conversion.one_to_one else _layer_name
        for _, sources in itertools.groupby(sorted(self.sources, key=group), key=group):
            tensors: dict[str, torch.Tensor] = {}
            for source in sources:
                if source != self.copied_output:
                    tensors |= conversion.to_decoder({source: reader.read(source, self.sources[source])})
            for name in sorted(tensors):
                hash_tensor(digest, name, tensors.pop(name).to(_dtype(decoder, name, dtype)))
        return digest.hexdigest()

    def _check_copied_output(self, name: str, embedding: torch.Tensor, reader: TensorReader) -> None:
        # [Contract] dropping a separate output projection would leave a model that still speaks, only worse.
        output = reader.read(name, self.sources[name])
        if not torch.equal(output.to(embedding), embedding):
            raise UserError(
                f"{_KEY}={self.files.folder}: {self.copied_output} differs from the embedding table, but"
                f" llm._component_={self.llm['_component_']} uses that table for both: name a builder that does not"
            )


def plan_llm(
    llm: Mapping[str, Any] | str,
    checkpoint_dir: str | Path,
    checkpoint_files: Sequence[str] | None = None,
    llm_weights: str = UNQUANTISED,
) -> LLMPlan:
    """Check that a checkpoint is the LLM that the configuration names; only headers are read.

    Args:
        llm: ``{"_component_": "torchtune.models.llama3_1.llama3_1_8b", **arguments}``, any torchtune builder of a text
            decoder: Llama 2, 3, 3.1, 3.2, Qwen 2 and 2.5, Mistral, Phi-3, Gemma; or
            ``medcap.models.transformers_decoder``, which reads the config.json of ``checkpoint_dir``.
        checkpoint_dir: folder of Hugging Face safetensors files or of Meta's consolidated.*.pth files.
        checkpoint_files: which of its files, None to find them.
        llm_weights: precision of the layers' linear maps, of ``LLM_WEIGHTS``.

    Returns:
        The plan.

    Raises:
        UserError: for an unknown builder or argument, a missing or damaged file, a ``config.json`` or ``params.json``
            of another model, and missing, unexpected or misshapen tensors, all in one line; for shapes that
            ``llm_weights`` cannot hold.
    """
    llm = with_files(llm, checkpoint_dir)
    decoder = build_decoder(llm)
    check_layers(decoder.layers, llm_weights)
    shape = describe(decoder)
    files = find_llm_files(checkpoint_dir, checkpoint_files)
    conversion = conversion_for(decoder, files.kind, files.headers)
    own = isinstance(decoder, TransformersDecoder)
    if own:
        files = join_experts(files, conversion.expected(decoder))
    _check_descriptions(llm["_component_"], None if own else shape, files)
    expected = conversion.expected(decoder)
    shares_embedding = (
        not shape.tied
        and conversion.output not in files.headers
        and (decoder.ties_embedding if own else bool((files.config or {}).get("tie_word_embeddings")))
    )
    if shares_embedding:
        del expected[conversion.output]
    copied_output = conversion.output if shape.tied and conversion.output in files.headers else None
    if copied_output:
        expected[conversion.output] = expected[conversion.embedding]
    sources = _match(llm["_component_"], expected, files, _ignored(decoder, conversion, files))
    return LLMPlan(
        llm=llm,
        files=files,
        sources=sources,
        dim=shape.embed_dim,
        vocab_size=shape.vocab_size,
        max_seq_len=shape.max_seq_len,
        shares_embedding=shares_embedding,
        copied_output=copied_output,
        continues_prompt_prefix=own or all(map(can_freeze, decoder.layers)),
        llm_weights=llm_weights,
    )


def _layer_number(source: str) -> int:
    """Return the decoder layer that a checkpoint's tensor belongs to, -1 for none."""
    found = _LAYER.search(source)
    return int(found.group(1)) if found else -1


def _layer_name(source: str) -> str:
    """Return the beginning of the decoder's names for a checkpoint's tensor, which sorts as these names do."""
    number = _layer_number(source)
    return f"layers.{number}." if number >= 0 else "~"


def _check_descriptions(component: str, shape: DecoderShape | None, files: LLMFiles) -> None:
    """Compare the files' descriptions with a decoder that was not built from them."""
    config, params = files.config or {}, files.params or {}
    if config.get("quantization_config") and not (shape is None and holds_blocks(config)):
        raise UserError(
            f"{_KEY}={files.folder} holds a quantised model: give the original one, medcap quantises it (llm_weights)"
        )
    if shape is None:
        return
    for name, mistakes in (
        ("config.json", config_mismatches(shape, config)),
        ("params.json", params_mismatches(shape, params) if params else []),
    ):
        if mistakes:
            raise UserError(
                f"llm._component_={component} is not the model of {files.folder}: {name} has {', '.join(mistakes)};"
                " name the builder of these weights"
            )


def _share_embedding(decoder: Decoder) -> None:
    """Use the embedding table as output projection."""
    if isinstance(decoder, TransformersDecoder):
        decoder.share_embedding()
    else:
        output: Any = decoder.output
        output.weight = decoder.tok_embeddings.weight


def _dtype(decoder: Decoder, name: str, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if isinstance(decoder, TransformersDecoder) and decoder.keeps_float32(name) else dtype


def _renamed(conversion: Conversion, source: str) -> str:
    """Return a decoder's name for a tensor of a checkpoint that is one of the decoder's."""
    (name,) = conversion.to_decoder({source: torch.empty(0)})
    return name


def _ignored(decoder: Decoder, conversion: Conversion, files: LLMFiles) -> Callable[[str], bool]:
    """Return which tensors of a checkpoint a decoder leaves out without a word."""
    if not isinstance(decoder, TransformersDecoder):
        return is_rotary_table
    # A model of several modalities, of which only the text part is taken.
    several = any(key.endswith("_config") and isinstance(value, dict) for key, value in (files.config or {}).items())
    text = (conversion.embedding.removesuffix("embed_tokens.weight"), conversion.output)

    def ignored(name: str) -> bool:
        own = _renamed(conversion, name)
        return is_rotary_table(name) or decoder.ignores(own) or (several and not name.startswith(text))

    return ignored


def _match(
    component: str, expected: dict[str, tuple[int, ...]], files: LLMFiles, ignored: Callable[[str], bool]
) -> dict[str, int | None]:
    sources: dict[str, int | None] = {}
    mistakes = []
    for name, shape in expected.items():
        pieces = files.headers.get(name, [])
        try:
            if not pieces:
                raise ValueError("is missing")
            if None in {piece.dtype for piece in pieces}:
                raise ValueError("is not floating-point (a quantised model?)")
            if files.kind == "hugging_face" and len(pieces) > 1:
                raise ValueError(f"is in {' and in '.join(piece.path.name for piece in pieces)}")
            if files.kind == "meta" and len(pieces) != len(files.paths):
                raise ValueError(f"is in {len(pieces)} of {len(files.paths)} files")
            sources[name] = concatenation_dim([piece.shape for piece in pieces], shape)
        except ValueError as error:
            why = next((why_empty(piece.shape) for piece in pieces if why_empty(piece.shape)), "")
            location = f"{pieces[0].path.name}: " if len(pieces) == 1 else ""
            mistakes.append(f"{location}{name} {error}{why}")
    unexpected = [name for name in files.headers if name not in expected and not ignored(name)]
    mistakes += [f"{files.headers[name][0].path.name}: {name} is unexpected" for name in unexpected]
    if mistakes:
        more = f"; and {len(mistakes) - _SHOWN_MISTAKES} more" if len(mistakes) > _SHOWN_MISTAKES else ""
        raise UserError(
            f"{_KEY}={files.folder} does not hold the model of llm._component_={component}:"
            f" {'; '.join(mistakes[:_SHOWN_MISTAKES])}{more}"
        )
    return sources


def _stream(
    decoder: Decoder,
    tensors: dict[str, torch.Tensor],
    device: str | torch.device,
    dtype: torch.dtype,
    folder: Path,
) -> None:
    for name, tensor in tensors.items():
        # A separate copy: a view would keep the file's memory map, or a fused tensor, alive.
        owned = torch.empty(tensor.shape, dtype=_dtype(decoder, name, dtype), device=device).copy_(tensor)
        check_finite(owned, folder, name)
        module, _, leaf = name.rpartition(".")
        setattr(decoder.get_submodule(module), leaf, nn.Parameter(owned, requires_grad=False))


def _rebuild_rotary_tables(decoder: TransformerDecoder, device: torch.device) -> None:
    for module in decoder.modules():
        rebuild: Any = getattr(module, "rope_init", None)
        if rebuild is not None:
            # On the CPU whatever the device: a last-bit difference in a frequency, times position 100,000, is an angle.
            with torch.device("cpu"):
                rebuild()
            module.to(device)
