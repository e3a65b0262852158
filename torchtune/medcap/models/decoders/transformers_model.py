"""Any causal language model of transformers as a frozen decoder: its own layers with our masks."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torchtune.modules import TransformerDecoder

from medcap.errors import UserError
from medcap.models.decoders.attention import ATTENTION, PASS, AttentionPass, KeysAndValues, attend
from medcap.models.decoders.families import TAKE, longest_sequence, read_config, why_unfit

_PROBE = "medcap_probe"


def transformers_decoder(path: str | None = None) -> TransformersDecoder:
    """Build the text part of a model of transformers; no code of the model's folder is run.

    Args:
        path: folder of the model as downloaded, or its config.json; a configuration that leaves it out gets
            ``checkpointer.checkpoint_dir``.

    Returns:
        The decoder with transformers' first values; on the meta device where that is the default.

    Raises:
        UserError: if the model cannot be taken.
    """
    if path is None:
        raise UserError("llm.path is missing: give the folder of the language model's config.json")
    return TransformersDecoder(read_config(path), path)


class TransformersDecoder(nn.Module):
    """A causal language model of transformers with what ``VisionLanguageModel`` asks of a decoder.

    The forward pass is the family's own, from its embeddings to its last norm, so that multipliers, rotary tables,
    parallel branches and experts are what transformers makes of them. Only attention is ours. Weights have the names
    of transformers' checkpoints.

    Image rows take the place of embeddings where the family's forward pass begins: after the factor of Gemma's table,
    which belongs to the table, and before Granite's multiplier, which belongs to the pass.

    Args:
        config: transformers' configuration of the text model.
        where: its file, for messages.

    Attributes:
        norm: does nothing, because the forward pass ends with the last norm.
        output: hidden states -> logits, with the family's own factors and caps.
        max_seq_len: positions that the model may use.
    """

    def __init__(self, config: Any, where: str = "config.json") -> None:
        super().__init__()
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface

        AttentionInterface.register(ATTENTION, attend)
        for key in vars(config):
            # A frozen model never drops anything, even where a layer is checkpointed as in training.
            if key.endswith(("dropout", "pdrop")) and isinstance(getattr(config, key), float):
                setattr(config, key, 0.0)
        kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        try:
            whole = kind._from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)
        except Exception as error:  # whatever a family does that has its own ways of attention
            reason = f"cannot be built with medcap's attention ({error!r}); correct its config.json, or"
            raise UserError(f"{where}: {config.model_type} {reason} {TAKE}") from error
        inner = getattr(whole, whole.base_model_prefix)
        head = whole.get_output_embeddings()
        if whole.base_model_prefix != "model" or getattr(whole, "lm_head", None) is not head:
            reason = "has no model.layers and lm_head, which medcap runs"
            raise UserError(f"{where}: {config.model_type} {reason}: {TAKE}")
        self.config = config
        self.model = inner
        self.lm_head = head
        self.ties_embedding = bool(config.tie_word_embeddings)
        if head.weight.is_meta:
            # Which files tie them is known later.
            head.weight = nn.Parameter(torch.empty_like(head.weight), requires_grad=False)
        self.norm = nn.Identity()
        # Not registered: it holds the same parameters under other names.
        self._head = (_Head(whole, self.lm_head),)
        self.max_seq_len = longest_sequence(config)
        self._float32 = set(whole._keep_in_fp32_modules_strict or ())
        self._ignored = [re.compile(part) for part in whole._keys_to_ignore_on_load_unexpected or ()]
        _prepare_attention(self, where)

    @property
    def tok_embeddings(self) -> nn.Embedding:
        """The embedding table."""
        return self.model.get_input_embeddings()

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, transformers' own."""
        return self.model.layers

    @property
    def output(self) -> _Head:
        """The head: ``[..., d] -> [..., V]``."""
        return self._head[0]

    def share_embedding(self) -> None:
        """Use the embedding table as the output projection."""
        self.lm_head.weight = self.tok_embeddings.weight

    def keeps_float32(self, name: str) -> bool:
        """Return whether a weight stays float32 whatever the others are, because the family asks for it."""
        return not self._float32.isdisjoint(name.split("."))

    def ignores(self, name: str) -> bool:
        """Return whether transformers leaves out a tensor of a checkpoint, such as one for predicting several tokens.

        Args:
            name: as ``model.layers.61.eh_proj.weight``.
        """
        return any(pattern.search(name) for pattern in self._ignored)

    def forward(self, tokens: Tensor, *, mask: Tensor | None = None, input_pos: Tensor | None = None) -> Tensor:
        """Compute the logits of all positions: ``[R, S]`` int64 -> ``[R, S, V]``."""
        if input_pos is None:
            input_pos = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        return self.output(self.run(self.tok_embeddings(tokens), mask, input_pos))

    def run(
        self,
        embeddings: Tensor,
        mask: Tensor | None,
        input_pos: Tensor,
        checkpointed_layers: int = 0,
        prompt_prefix: Sequence[KeysAndValues] | None = None,
        kept: list[KeysAndValues] | None = None,
    ) -> Tensor:
        """Run all layers and the last norm.

        Args:
            embeddings: ``[R, S, d]``.
            mask: ``[R, S, P + S]`` or, over a cache, ``[R, S, used]``; boolean or to be added. None is causal.
            input_pos: ``[R, S]`` int64.
            checkpointed_layers: layers, from the first, that are computed again in the backward pass.
            prompt_prefix: see :class:`AttentionPass`.
            kept: see :class:`AttentionPass`.

        Returns:
            ``[R, S, d]``.
        """
        current = AttentionPass(mask, input_pos, prompt_prefix, kept)
        count = checkpointed_layers if torch.is_grad_enabled() else 0
        layers: Any = self.layers
        for number, layer in enumerate(layers):
            # transformers asks for both. The parts of a layer stay in evaluation mode.
            layer.gradient_checkpointing = layer.training = number < count
            layer._gradient_checkpointing_func = _checkpoint
        options = {PASS: current}
        states = self.model(inputs_embeds=embeddings, position_ids=input_pos, use_cache=False, **options)
        return states.last_hidden_state

    @contextmanager
    def without_memory(self) -> Generator[None]:
        """Let the decoder run on the meta device while the block lasts, whatever it does with experts."""
        before = self.config._experts_implementation
        # Experts chosen by a loop ask for numbers that a tensor without memory does not have.
        self.config._experts_implementation = "batched_mm"
        try:
            yield
        finally:
            self.config._experts_implementation = before

    @torch.no_grad()
    def rebuild_buffers(self, device: torch.device) -> None:
        """Compute what no checkpoint holds, such as rotary frequencies.

        Args:
            device: where it goes; it is computed on the CPU, so that all devices have the same angles.
        """
        for module in self.model.modules():
            for name in [name for name, value in vars(module).items() if isinstance(value, Tensor) and value.is_meta]:
                delattr(module, name)  # a rotary table that transformers made and kept while nothing was computed
            missing = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
            if not missing:
                continue
            for name in missing:
                module._buffers[name] = torch.zeros_like(module._buffers[name], device="cpu")
            weights: list[Any] = list(module.parameters(recurse=False))
            for weight in weights:
                weight._is_hf_initialized = True  # what transformers does not set again
            with torch.device("cpu"):
                self.model._init_weights(module)
            for weight in weights:
                del weight._is_hf_initialized
            for name in missing:
                module._buffers[name] = module._buffers[name].to(device)


Decoder = TransformerDecoder | TransformersDecoder


class _Head(nn.Module):
    """The part of a family's forward pass after the last norm, for given hidden states."""

    def __init__(self, whole: Any, linear: nn.Linear) -> None:
        super().__init__()
        self._linear = (linear,)
        self._rows: Tensor | None = None
        setattr(whole, whole.base_model_prefix, _Given())
        whole.lm_head = _Projection(self)
        self._whole = (whole,)

    @property
    def weight(self) -> Tensor:
        """The output projection's: ``[V, d]``."""
        return self._linear[0].weight

    def forward(self, states: Tensor, rows: Tensor | None = None) -> Tensor:
        """Compute logits.

        Args:
            states: ``[..., d]``, after the last norm.
            rows: ``[n, d]``, to be used in the place of the output projection.

        Returns:
            ``[..., V]``, or ``[..., n]``.
        """
        self._rows = rows
        try:
            logits = self._whole[0](inputs_embeds=states.reshape(1, -1, states.shape[-1]), use_cache=False).logits
        finally:
            self._rows = None
        return logits.view(*states.shape[:-1], -1)

    def project(self, states: Tensor) -> Tensor:
        return self._linear[0](states) if self._rows is None else functional.linear(states, self._rows)


class _Projection(nn.Module):
    def __init__(self, head: _Head) -> None:
        super().__init__()
        self._head = (head,)

    def forward(self, states: Tensor) -> Tensor:
        return self._head[0].project(states)


class _Given(nn.Module):
    """Stands where a family's forward pass calls its layers, and returns what it is given."""

    def forward(self, *, inputs_embeds: Tensor, **others: Any) -> Any:
        from transformers.modeling_outputs import MoeModelOutputWithPast

        return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)


def _checkpoint(function: Any, *arguments: Any) -> Any:
    return checkpoint(function, *arguments, use_reentrant=False)


def _prepare_attention(decoder: TransformersDecoder, where: str) -> None:
    """Find the modules that attend, by a pass that computes nothing, and let them take a cache.

    Raises:
        UserError: if a layer does not attend exactly once, or a window is not honoured.
    """
    from transformers import AttentionInterface

    calls: list[tuple[Any, int | None, bool]] = []

    def note(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any = None, **options: Any) -> Any:
        calls.append((module, options.get("sliding_window"), mask is None and PASS in options))
        rows, heads, length, _ = query.shape
        return query.new_empty(rows, length, heads, value.shape[3]), None

    config, kind = decoder.config, decoder.config.model_type
    AttentionInterface.register(_PROBE, note)
    config._attn_implementation = _PROBE
    try:
        with torch.no_grad(), decoder.without_memory():
            table = decoder.tok_embeddings
            embeddings = torch.zeros(1, 2, table.embedding_dim, device=table.weight.device)
            positions = torch.arange(2, device=table.weight.device)[None]
            states = decoder.model(inputs_embeds=embeddings, position_ids=positions, use_cache=False, **{PASS: None})
            decoder.output(states.last_hidden_state)
    except Exception as error:  # whatever a family does with inputs that it is not made for
        raise UserError(f"{where}: medcap cannot run the layers of {kind} ({error}): {TAKE}") from error
    finally:
        config._attn_implementation = ATTENTION
    kinds = getattr(config, "layer_types", None) or [None] * len(decoder.layers)
    for number, layer in enumerate(decoder.layers):
        inside = set(layer.modules())
        own = [call for call in calls if call[0] in inside]
        if len(own) != 1 or not own[0][2]:
            raise why_unfit(
                f"has a layer {number} that does not ask one attention function for all it reads", where, kind
            )
        module, window, _ = own[0]
        everywhere = kinds[number] is None and getattr(config, "sliding_window", None) is not None
        if window is None and (kinds[number] == "sliding_attention" or everywhere):
            raise why_unfit(f"has a window in layer {number} that its attention does not tell", where, kind)
        module.kv_cache, module.cache_enabled = None, False
