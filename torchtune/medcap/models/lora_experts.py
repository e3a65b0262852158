"""Adapters of several runs as experts over one frozen language model, and the router that chooses among them."""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcap.data.batch import TEXT, Batch
from medcap.data.packing import PADDING_DOCUMENT
from medcap.errors import UserError
from medcap.models.component import Component
from medcap.models.llm_lora import LanguageModelAdapters, LowRankUpdate, llm_lora

TOKEN, SEQUENCE = "token", "sequence"
ROUTERS = (TOKEN, SEQUENCE)
ROUTER_BALANCE = "router_balance"  # the loss term that asks for equal shares
_LAYER = re.compile(r"(?:model\.)?layers\.(\d+)\.")


class _LanguageModelPlan(Protocol):
    @property
    def dim(self) -> int: ...

    def linear_shapes(self) -> dict[str, tuple[int, int]]: ...


class _ModelPlan(Protocol):
    """The part of ``ModelPlan`` (``medcap.checkpoints.build_model``) used here; this layer may not import it."""

    @property
    def llm(self) -> _LanguageModelPlan: ...


def lora_experts(
    plan: _ModelPlan, experts: list[Any], router: str = TOKEN, top_k: int = 1, train_experts: bool = False
) -> RoutedAdapters:
    """Build adapters of several runs and a router that chooses among them.

    Args:
        plan: plan of the model.
        experts: runs with ``llm_lora``; what a checkpoint holds of each is ``run`` and the options of ``llm_lora``.
        router: ``token`` chooses for each token in each layer, ``sequence`` once for each question.
        top_k: experts that take part at a time.
        train_experts: whether the experts learn with the router.

    Returns:
        The adapters, with random experts and a router that treats all alike.

    Raises:
        UserError: if an option is impossible, or the language model lacks a target of an expert.
    """
    if router not in ROUTERS:
        raise UserError(f"llm_lora.router={router}: choose from {', '.join(ROUTERS)}")
    if not 1 <= top_k <= len(experts):
        raise UserError(f"llm_lora.top_k={top_k}: it must be from 1 to {len(experts)}, the number of experts")
    options = [dict(expert) for expert in experts]
    runs = [expert.pop("run") for expert in options]
    built = []
    for run, expert in zip(runs, options, strict=True):
        try:
            built.append(llm_lora(plan, **expert))
        except UserError as error:
            raise UserError(f"llm_lora.experts: {run} does not fit this language model: {error}") from error
    return RoutedAdapters(built, runs, plan.llm.dim, router, top_k, train_experts)


def choose_experts(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Turn a router's logits into the experts' weights.

    The weights are the softmax over the ``top_k`` largest logits, and 0 for the others; among equals the first expert
    is taken. Their gradient is that of the softmax over all experts (a straight-through estimator), so a router also
    learns what an expert that it did not take would have changed.

    Args:
        logits: ``[..., E]`` float32.
        top_k: experts that take part.

    Returns:
        The weights and the probabilities of all experts, ``[..., E]`` each.
    """
    probabilities = logits.softmax(dim=-1)
    kept = logits.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]
    weights = torch.zeros_like(logits).scatter(-1, kept, logits.gather(-1, kept).softmax(dim=-1)).detach()
    return weights + (probabilities - probabilities.detach()), probabilities


class RoutedAdapters(Component):
    """Adapters of several runs beside the linear maps of the language model, and the router that weighs them.

    A map gives ``W x + sum over experts e of weight_e * scale_e * B_e A_e x``. With ``top_k`` of 1 the weight is 1 for
    the chosen expert and 0 for the others, so the model computes what the chosen expert's run computes.

    ``token``: each layer has a router. It reads the hidden state that enters the layer, at that token alone, and its
    choice holds for all maps of the layer: query and key, or gate and up, of one expert belong together.

    ``sequence``: one router reads the embeddings of the question's words, which are there before any layer runs. Each
    word has a vote, and the mean of the votes chooses for the whole conversation. A question is everything before the
    first answer but the image tokens.

    Args:
        experts: adapters of each run.
        runs: name of each run.
        dim: width d of a hidden state.
        router: ``token`` or ``sequence``.
        top_k: experts that take part at a time.
        train_experts: whether the experts learn with the router.
    """

    name = "llm_lora"
    label = "router of experts"
    unused_label = "experts"
    builder = "medcap.models.lora_experts.lora_experts"
    loss_terms = (ROUTER_BALANCE,)
    loss_weights: ClassVar[Mapping[str, float]] = {ROUTER_BALANCE: 0.0}
    loss_counts: ClassVar[Mapping[str, str]] = {ROUTER_BALANCE: TEXT}
    changes_language_model = True

    def __init__(
        self,
        experts: Sequence[LanguageModelAdapters],
        runs: Sequence[str],
        dim: int,
        router: str,
        top_k: int,
        train_experts: bool,
    ) -> None:
        super().__init__()
        self.runs, self.router_kind, self.top_k, self.train_experts = list(runs), router, top_k, train_experts
        self.experts = nn.ModuleList(experts)
        self._maps: dict[str, list[tuple[int, LanguageModelAdapters, LowRankUpdate]]] = {}
        for number, expert in enumerate(experts):
            for name, update in expert.updates.items():
                self._maps.setdefault(name, []).append((number, expert, update))
        layers = sorted({_layer_of(name) for name in self._maps})
        names = [str(number) for number in layers] if router == TOKEN else [SEQUENCE]
        self.router = nn.ModuleDict({name: nn.Linear(dim, len(experts), bias=False) for name in names})
        for part in self.router.values():
            nn.init.zeros_(part.get_parameter("weight"))
        self._image_token_id = -1
        self._fixed: tuple[float, ...] | None = None  # weights that hold for all tokens of a pass
        self._valid: Tensor | None = None  # [N], the tokens of the batch that are not padding
        # Of the pass that ran last, by layer; a sequence's hold for every layer, under -1.
        self._weights: dict[int, Tensor] = {}  # [N, E]
        self._probabilities: dict[int, Tensor] = {}  # [N, E]
        self._positions: dict[int, Tensor | None] = {}  # [m] where a layer computes outputs; None for everywhere
        self._taken: Tensor | None = None  # [E] choices since they were last asked for

    @property
    def chooses_by_token(self) -> bool:
        """Whether each token has its own choice."""
        return self.router_kind == TOKEN

    @property
    def num_experts(self) -> int:
        """Number of experts E."""
        return len(self.experts)

    @property
    def draws_in_layers(self) -> bool:
        """Whether an expert has dropout."""
        experts: Any = self.experts
        return any(expert.draws_in_layers for expert in experts)

    def config(self) -> dict[str, Any]:
        """Return the function's name, its options, and those of each expert."""
        options = []
        for run, expert in zip(self.runs, self.experts, strict=True):
            assert isinstance(expert, LanguageModelAdapters)
            own = expert.config()
            options.append({"run": run} | {key: value for key, value in own.items() if key != "_component_"})
        return {
            "_component_": self.builder,
            "experts": options,
            "router": self.router_kind,
            "top_k": self.top_k,
            "train_experts": self.train_experts,
        }

    @classmethod
    def summary(cls, config: Mapping[str, Any]) -> str:
        """Name the experts and the router."""
        return LanguageModelAdapters.summary(config)

    def train(self, mode: bool = True) -> RoutedAdapters:
        """Set the mode; frozen experts drop nothing."""
        super().train(mode)
        self.experts.train(mode and self.train_experts)
        return self

    def unused(self, components: Mapping[str, Component]) -> Collection[str]:
        """Name the weights of frozen experts."""
        if self.train_experts:
            return ()
        return {name for name, _ in self.named_parameters() if name.startswith("experts.")}

    def attach(self, model: nn.Module) -> None:
        """Let every layer choose its experts, and every target call their updates."""
        decoder: Any = model.get_submodule("decoder")
        image_token_id: Any = model.image_token_id
        self._image_token_id = image_token_id
        for number in sorted({_layer_of(name) for name in self._maps}):
            decoder.layers[number].register_forward_pre_hook(self._layer_hook(number), with_kwargs=True)
        for name, updates in self._maps.items():
            decoder.get_submodule(name).register_forward_hook(self._map_hook(_layer_of(name), updates))

    def layer_activations(self, tokens: int, dtype: torch.dtype) -> int:
        """Count what the experts keep, and the fp32 copy of a layer's input that a router of tokens reads."""
        parts: Any = self.experts
        kept = sum(expert.layer_activations(tokens, dtype) for expert in parts)
        dim = next(iter(self.router.values())).get_parameter("weight").shape[1]
        return kept + (tokens * dim * 4 if self.router_kind == TOKEN else 0)

    def added_weight(self, name: str) -> Tensor | None:
        """Refuse: the update of a map differs from token to token.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{name}: no single weight holds the updates of experts")

    def begin(self, batch: Batch, embeddings: Tensor) -> None:
        """Choose the experts of each question, where one choice holds for all of it.

        Raises:
            ValueError: if questions of such a batch share a prefix, which could follow only one of their choices.
        """
        self._valid = batch.document.flatten() != PADDING_DOCUMENT
        if self.router_kind == TOKEN or not self.enabled:
            return
        # [Contract] what questions share is computed once, so it would have the experts of one of them.
        apart = (batch.branch <= 1).all()
        if apart.is_cuda:
            torch._assert_async(apart, "questions that choose their own experts cannot share a prefix")
        elif not apart:
            raise ValueError("questions that choose their own experts cannot share a prefix")
        # Numbers of the documents and of the padding in all rows, counted: a GPU makes the host wait for ``unique``.
        begins = functional.pad(batch.document[:, 1:] != batch.document[:, :-1], (1, 0), value=True)  # [R, S]
        ids = begins.flatten().cumsum(0) - 1  # [N]
        flat = torch.arange(len(ids), device=ids.device)
        last = torch.full_like(ids, len(ids))  # of each document's question; all of one without a target
        last.scatter_reduce_(0, ids[batch.target_positions], batch.target_positions, "amin")
        word = self._valid & (batch.tokens.flatten() != self._image_token_id) & (flat <= last[ids])
        votes = self._votes(SEQUENCE, embeddings.detach().flatten(0, 1)) * word[:, None]  # [N, E]
        count = torch.zeros(len(ids), device=ids.device).index_add(0, ids, word.float()).clamp(min=1)
        logits = torch.zeros_like(votes).index_add(0, ids, votes) / count[:, None]
        weights, probabilities = choose_experts(logits, self.top_k)
        self._weights[-1], self._probabilities[-1] = weights[ids], probabilities[ids]

    def losses(self, batch: Batch, hidden: Tensor, patches: Tensor | None) -> dict[str, Tensor]:
        """Compute the balance of the shares (https://arxiv.org/abs/2101.03961, equation 4), times the targets.

        It is ``E * sum over experts of share * mean probability``, averaged over the layers: 1 for equal shares.
        """
        valid = self._valid
        nothing = torch.zeros((), device=hidden.device)
        if valid is None or not self._weights or not self.enabled:
            return {ROUTER_BALANCE: nothing}
        kept = valid.float()[:, None] / valid.sum().clamp(min=1)  # [N, 1]
        terms, shares = [], []
        for number, weights in self._weights.items():
            share = ((weights > 0).float() * kept).sum(dim=0) / self.top_k  # [E]
            terms.append(self.num_experts * (share * (self._probabilities[number] * kept).sum(dim=0)).sum())
            shares.append(share)
        if self.training:
            taken = torch.stack(shares).mean(dim=0).detach() * valid.sum()
            self._taken = taken if self._taken is None else self._taken + taken
        return {ROUTER_BALANCE: torch.stack(terms).mean() * batch.counts.get(TEXT, 0)}

    def log_sums(self) -> Tensor | None:
        """Return the choices since the last call, ``[E]``."""
        taken, self._taken = self._taken, None
        # A process without a batch has none.
        return torch.zeros(self.num_experts, device=self.device) if taken is None else taken

    def log_values(self, sums: Sequence[float]) -> dict[str, float]:
        """Return the share of the tokens that each expert got, over all layers."""
        total = sum(sums) or 1.0
        return {f"expert_share_{number}": value / total for number, value in enumerate(sums)}

    @property
    def device(self) -> torch.device:
        """The router's."""
        return next(self.router.parameters()).device

    def route(self, words: Tensor) -> tuple[float, ...]:
        """Return the weights of the experts for a question; none with a router of tokens.

        Args:
            words: ``[n, d]`` embeddings of its words.
        """
        if self.chooses_by_token:
            return ()
        with torch.no_grad():
            logits = self._votes(SEQUENCE, words).mean(dim=0)
            return tuple(choose_experts(logits, self.top_k)[0].tolist())

    @contextmanager
    def following(self, route: tuple[float, ...]) -> Generator[None]:
        """Give all tokens these weights while the block lasts; none leaves the choice to the router."""
        before, self._fixed = self._fixed, route or None
        try:
            yield
        finally:
            self._fixed = before

    def shares(self, positions: Tensor) -> Tensor:
        """Return the experts' weights at some tokens of the last pass, averaged over the layers.

        Args:
            positions: ``[n]`` int64 flat positions.

        Returns:
            ``[n, E]``.
        """
        return torch.stack([weights[positions] for weights in self._weights.values()]).mean(dim=0)

    def _votes(self, name: str, states: Tensor) -> Tensor:
        """``[N, d]`` -> ``[N, E]`` float32: of the states' directions, whatever their lengths are."""
        return self.router[name](functional.normalize(states.float(), dim=-1))

    def _layer_hook(self, number: int) -> Any:
        def choose(layer: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            if not self.enabled:
                return
            self._positions[number] = options.get("output_positions")
            if self.router_kind == TOKEN and self._fixed is None:
                states = (inputs[0] if inputs else options["hidden_states"]).flatten(0, -2)  # [N, d]
                logits = self._votes(str(number), states)
                self._weights[number], self._probabilities[number] = choose_experts(logits, self.top_k)

        return choose

    def _map_hook(self, number: int, updates: Sequence[tuple[int, LanguageModelAdapters, LowRankUpdate]]) -> Any:
        place = number if self.router_kind == TOKEN else -1

        def add(linear: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not self.enabled:
                return output
            if self._fixed is not None:
                for expert, adapters, update in updates:
                    if self._fixed[expert]:
                        output = adapters.added(update, inputs[0], output, self._fixed[expert])
                return output
            weights, positions = self._weights[place], self._positions[number]  # [N, E]
            if positions is not None and output.numel() // output.shape[-1] != len(weights):
                weights = weights[positions]  # [m, E]
            for expert, adapters, update in updates:
                output = adapters.added(update, inputs[0], output, weights[:, expert : expert + 1])
            return output

        return add


def routed_adapters(components: Mapping[str, Component]) -> RoutedAdapters | None:
    """Return the experts of a model; None for a model without."""
    found = components.get(RoutedAdapters.name)
    return found if isinstance(found, RoutedAdapters) else None


def _layer_of(name: str) -> int:
    found = _LAYER.match(name)
    if found is None:
        raise UserError(f"llm_lora.experts: {name} is in none of the language model's layers, so no router chooses")
    return int(found[1])
