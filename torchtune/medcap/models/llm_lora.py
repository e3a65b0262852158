"""Low-rank updates beside the linear maps of the frozen language model: LoRA."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcap.errors import UserError
from medcap.models.component import Component

ALL_LINEAR = "all-linear"
# Name that users know from transformers and PEFT -> the map within torchtune's layer.
TARGETS = {
    "q_proj": "attn.q_proj",
    "k_proj": "attn.k_proj",
    "v_proj": "attn.v_proj",
    "o_proj": "attn.output_proj",
    "gate_proj": "mlp.w1",
    "up_proj": "mlp.w3",
    "down_proj": "mlp.w2",
}
# Maps of a layer that read the same tensor, which is kept once, by the last part of their name.
_INPUTS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "qkv_proj"), "before attention"),
    **dict.fromkeys(("output_proj", "o_proj", "dense"), "attended"),
    **dict.fromkeys(("w1", "w3", "gate_proj", "up_proj", "gate_up_proj", "fc1"), "before mlp"),
    **dict.fromkeys(("w2", "down_proj", "fc2"), "within mlp"),
}
_LAYER = re.compile(r"(?:model\.)?layers\.(\d+)\.(.+)")


class _LanguageModelPlan(Protocol):
    def linear_shapes(self) -> dict[str, tuple[int, int]]: ...


class _ModelPlan(Protocol):
    """What is used of ``ModelPlan`` in ``medcap.checkpoints.build_model``, which this layer may not import."""

    @property
    def llm(self) -> _LanguageModelPlan: ...


def llm_lora(
    plan: _ModelPlan,
    rank: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: str | list[str] = ALL_LINEAR,
    rank_stabilised: bool = False,
) -> LanguageModelAdapters:
    """Build the adapters of a language model.

    Args:
        plan: of the model.
        rank: rank of each update.
        alpha: an update is multiplied by ``alpha / rank``; None is twice the rank.
        dropout: share of the inputs of an update that training leaves out, 0 to less than 1.
        targets: ``all-linear``, or names of ``TARGETS``; of a decoder of transformers, any last part of a map's name.
        rank_stabilised: multiply by ``alpha / sqrt(rank)`` instead (https://arxiv.org/abs/2312.03732).

    Returns:
        The adapters, whose updates are zero.

    Raises:
        UserError: if an option is impossible, or the language model lacks a target.
    """
    alpha = 2.0 * rank if alpha is None else float(alpha)
    if rank < 1:
        raise UserError(f"llm_lora.rank={rank}: it must be at least 1")
    if not 0 < alpha < math.inf:
        raise UserError(f"llm_lora.alpha={alpha}: it must be above 0")
    if not 0 <= dropout < 1:
        raise UserError(f"llm_lora.dropout={dropout}: it must be at least 0 and below 1")
    shapes = _choose(plan.llm.linear_shapes(), targets)
    return LanguageModelAdapters(shapes, rank, alpha, dropout, targets, rank_stabilised)


def _choose(shapes: Mapping[str, tuple[int, int]], targets: str | Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the linear maps that get an update."""
    if targets == ALL_LINEAR:
        return dict(shapes)
    names = [targets] if isinstance(targets, str) else list(targets)
    # A decoder of transformers has the names that users know.
    own = any(name.startswith("model.") for name in shapes)
    known = {leaf: leaf for leaf in (name.rpartition(".")[2] for name in shapes)} if own else TARGETS
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(f"llm_lora.targets={names}: choose {ALL_LINEAR}, or from {', '.join(known)}")
    for name in names:
        if not any(map_name.endswith(f".{known[name]}") for map_name in shapes):
            raise UserError(f"llm_lora.targets: the layers of this language model have no {name}")
    ends = tuple(f".{known[name]}" for name in names)
    return {name: shape for name, shape in shapes.items() if name.endswith(ends)}


class LowRankUpdate(nn.Module):
    """``x -> scale * B A x``, with torchtune's names ``lora_a.weight`` and ``lora_b.weight``."""

    def __init__(self, shape: tuple[int, int], rank: int) -> None:
        super().__init__()
        out_features, in_features = shape
        self.lora_a = nn.Linear(in_features, rank, bias=False)
        self.lora_b = nn.Linear(rank, out_features, bias=False)
        nn.init.kaiming_uniform_(self.lora_a.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b.weight)


class LanguageModelAdapters(Component):
    """Low-rank updates (https://arxiv.org/abs/2106.09685) beside the linear maps of the language model.

    The language model's own weights, their names and their precision stay as they are: each map calls its update by a
    hook, so that the adapters can be left out at any time. State keys are those of torchtune's adapter files:
    ``layers.0.attn.q_proj.lora_a.weight``.

    Args:
        shapes: name of a map in the decoder -> its output and input width.
        rank: rank of each update.
        alpha: numerator of the updates' scale, whose denominator comes from the rank.
        dropout: share of an update's inputs that training leaves out.
        targets: as configured.
        rank_stabilised: divide alpha by the root of the rank.

    Attributes:
        scale: what every update is multiplied by.
        updates: name of a map -> its update.
    """

    name = "llm_lora"
    label = "LLM adapters"
    builder = "medcap.models.llm_lora.llm_lora"
    other_builders: ClassVar[Mapping[str, str]] = {"experts": "medcap.models.lora_experts.lora_experts"}
    changes_language_model = True

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        rank: int,
        alpha: float,
        dropout: float,
        targets: str | Sequence[str],
        rank_stabilised: bool,
    ) -> None:
        super().__init__()
        self.rank, self.alpha, self.dropout, self.rank_stabilised = rank, alpha, dropout, rank_stabilised
        self.targets = targets if isinstance(targets, str) else list(targets)
        self.scale = alpha / (math.sqrt(rank) if rank_stabilised else rank)
        self.updates = {name: LowRankUpdate(shape, rank) for name, shape in shapes.items()}
        for name, update in self.updates.items():
            *path, leaf = name.split(".")
            parent: nn.Module = self
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(leaf, update)

    @property
    def draws_in_layers(self) -> bool:
        """Whether it has dropout."""
        return self.dropout > 0

    def config(self) -> dict[str, Any]:
        """Return the function's name and its options."""
        return {
            "_component_": self.builder,
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "targets": self.targets,
            "rank_stabilised": self.rank_stabilised,
        }

    @classmethod
    def summary(cls, config: Mapping[str, Any]) -> str:
        """Name rank, alpha and targets; of experts, their runs and the router."""
        if "experts" in config:
            runs = ", ".join(Path(expert["run"]).name for expert in config["experts"])
            return f"experts {runs}; the router chooses {config['top_k']} for each {config['router']}"
        targets = config["targets"] if isinstance(config["targets"], str) else ", ".join(config["targets"])
        return f"rank {config['rank']}, alpha {config['alpha']:g}, {targets}"

    def attach(self, model: nn.Module) -> None:
        """Let every target call its update."""
        decoder = model.get_submodule("decoder")
        for name, update in self.updates.items():
            decoder.get_submodule(name).register_forward_hook(self._hook(update))

    def layer_activations(self, tokens: int, dtype: torch.dtype) -> int:
        """Count the inputs of the updates, each once, and what ``A`` makes of them.

        The input of the map after attention is what attention keeps anyway.
        """
        found = [(_LAYER.fullmatch(name), update) for name, update in self.updates.items()]
        places = [(place[1], place[2], update) for place, update in found if place is not None]
        maps = {name: update for layer, name, update in places if layer == places[0][0]}
        inputs = {
            _INPUTS.get(name.rpartition(".")[2], name): update.lora_a.in_features for name, update in maps.items()
        }
        inputs.pop("attended", None)
        return tokens * dtype.itemsize * (sum(inputs.values()) + self.rank * len(maps))

    def added_weight(self, name: str) -> Tensor | None:
        """Return the product of a map's two matrices, scaled: ``[out, in]``."""
        update = self.updates.get(name.removesuffix(".weight"))
        if update is None:
            return None
        return self.scale * (update.lora_b.weight.detach() @ update.lora_a.weight.detach())

    def _hook(self, update: LowRankUpdate) -> Any:
        def add(linear: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return self.added(update, inputs[0], output) if self.enabled else output

        return add

    def added(self, update: LowRankUpdate, states: Tensor, output: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        """Add an update to what the frozen map gives.

        Args:
            update: one of ``updates``.
            states: ``[..., in]``.
            output: ``[..., out]``.
            weight: what the update is multiplied by: a number, or ``[n, 1]`` for each of the n states.

        Returns:
            ``[..., out]``.
        """
        down, up = (part.weight.to(output.dtype) for part in (update.lora_a, update.lora_b))  # [r, in], [out, r]
        if self.training and self.dropout:
            states = functional.dropout(states, self.dropout)
        low = functional.linear(states.to(output.dtype), down).flatten(0, -2)  # [n, rank]
        scale = self.scale
        if isinstance(weight, Tensor):
            low = low * weight.to(low.dtype)
        else:
            scale *= weight
        return torch.addmm(output.flatten(0, -2), low, up.t(), alpha=scale).view_as(output)
