"""A tiny model whose adapters are experts with a router, each expert's own model, and the plain formula of both."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.packed_samples import IMAGE, tiny_model
from medcap.models.llm_lora import llm_lora
from medcap.models.lora_experts import RoutedAdapters, lora_experts
from medcap.models.vision_language_model import VisionLanguageModel

DIM = 32
# Experts of different ranks, factors and targets.
EXPERTS: list[dict[str, Any]] = [
    {"run": "runs/words", "rank": 3, "alpha": 5.0},
    {"run": "runs/boxes", "rank": 2, "targets": ["q_proj", "v_proj", "down_proj"]},
]


def plan_of(decoder: nn.Module) -> Any:
    """What builders of adapters ask of a plan, for torchtune's decoder."""
    shapes = {
        f"layers.{name}": (part.out_features, part.in_features)
        for name, part in decoder.get_submodule("layers").named_modules()
        if isinstance(part, nn.Linear)
    }
    return SimpleNamespace(llm=SimpleNamespace(linear_shapes=lambda: shapes, dim=DIM))


def fill(experts: RoutedAdapters, router: float = 4.0) -> None:
    """Give the experts updates that are not zero, and the router weights of this size."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in experts.named_parameters():
            if "lora_b" in name:
                parameter.normal_(std=0.2)
        for parameter in experts.router.parameters():
            parameter.normal_(std=router)


def routed_model(router: str = "token", **options: Any) -> tuple[VisionLanguageModel, RoutedAdapters]:
    """The model of ``packed_samples`` with two experts and a router that is not indifferent."""
    model = tiny_model()
    torch.manual_seed(2)
    experts = lora_experts(plan_of(model.decoder), EXPERTS, router=router, **options)
    fill(experts)
    return VisionLanguageModel(model.tower, model.projector, model.decoder, IMAGE, [experts]), experts


def choose_always(experts: RoutedAdapters, number: int) -> None:
    """Let the router choose one expert, whatever it reads: the image of the map is the same side of every state."""

    def hook(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return functional.one_hot(torch.tensor(number), len(experts.experts)).float().expand_as(output) * 50

    for part in experts.router.values():
        part.register_forward_hook(hook)


def own_model(experts: RoutedAdapters, number: int) -> VisionLanguageModel:
    """The model of the run that an expert comes from."""
    model = tiny_model()
    options = {key: value for key, value in EXPERTS[number].items() if key != "run"}
    adapters = llm_lora(plan_of(model.decoder), **options)
    adapters.load_state_dict(experts.experts[number].state_dict())
    return VisionLanguageModel(model.tower, model.projector, model.decoder, IMAGE, [adapters])


class _PlainMap(nn.Module):
    def __init__(self, linear: nn.Module, experts: RoutedAdapters, name: str, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.linear, self.weights = linear, weights
        self.updates = [
            (number, EXPERTS[number].get("alpha", 2 * expert.rank) / expert.rank, expert.updates[name])
            for number, expert in enumerate(experts.experts)
            if name in expert.updates
        ]

    def forward(self, states: Tensor) -> Tensor:
        output = self.linear(states)
        for number, scale, update in self.updates:
            change = scale * states @ update.lora_a.weight.T @ update.lora_b.weight.T
            output = output + self.weights["of"][..., number : number + 1] * change
        return output


def straight_through(logits: Tensor) -> Tensor:
    """One for the largest logit and 0 for the others, with the gradient of the softmax."""
    soft = logits.softmax(-1)
    hard = functional.one_hot(soft.argmax(-1), logits.shape[-1]).float()
    return hard + (soft - soft.detach())


def plain_experts(experts: RoutedAdapters) -> VisionLanguageModel:
    """A model that computes a router of tokens as the formula says, layer by layer, every map in full."""
    model = tiny_model()
    for number, layer in enumerate(model.decoder.layers):
        weights: dict[str, Tensor] = {}
        router = experts.router[str(number)].weight

        def choose(
            part: nn.Module, inputs: tuple[Tensor, ...], kept: dict[str, Tensor] = weights, router: Tensor = router
        ) -> None:
            states = inputs[0]
            kept["of"] = straight_through(states / states.norm(dim=-1, keepdim=True) @ router.T)

        layer.register_forward_pre_hook(choose)
        for name, part in [*layer.named_modules()]:
            if isinstance(part, nn.Linear):
                parent, _, leaf = name.rpartition(".")
                plain = _PlainMap(part, experts, f"layers.{number}.{name}", weights)
                setattr(layer.get_submodule(parent), leaf, plain)
    return model
