"""A training step without adapters, with them, and with PEFT's on transformers, over the same weights and samples."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from decoder_adapters import adapters_for
from torch import nn
from torchtune.modules import TransformerDecoder
from training_sides import Ours, Prepared, Side, Transformers, copy_weights, our_decoder, our_model, vision_of
from training_workloads import Preset

from medcap.checkpoints.llm_architecture import describe
from medcap.export.adapter_folder import write_adapter
from medcap.models.llm_lora import LanguageModelAdapters
from medcap.training.trainable import set_trainable

# What learns beside the adapters.
CASES = {"tower, projector": ("vision", "projector"), "projector": ("projector",)}
SIDES = ("without adapters", "adapters", "PEFT")


class WithoutAdapters(Ours):
    """Our step, the words before the image computed once."""

    def learn(self, names: Sequence[str]) -> None:
        """Choose the components that learn, and build a new optimizer."""
        set_trainable(self.model, names)
        self.start()


class WithAdapters(WithoutAdapters):
    """Our step with ``llm_lora``."""

    caches_prompt_prefix = False

    def __init__(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> None:
        Side.__init__(self, preset, device, dtype)
        self.model = our_model(preset, device, dtype, lambda decoder: [random_adapters(decoder)])

    @property
    def adapters(self) -> LanguageModelAdapters:
        """The component."""
        return self.model.components["llm_lora"]

    def learn(self, names: Sequence[str]) -> None:
        """Choose what learns beside the adapters."""
        super().learn([*names, "llm_lora"])

    def own_operations(self, prepared: Prepared) -> int:
        """Count by formula what the adapters' products of a step take.

        For a token, an update's two products take ``2 r (in + out)`` operations, the gradient of its input as many, and
        the gradients of its matrices as many again.

        Args:
            prepared: the step's batches, which are run to count the tokens that every linear map sees.
        """
        total = 0

        def count(linear: nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            nonlocal total
            tokens = inputs[0].numel() // linear.in_features
            total += 3 * 2 * self.adapters.rank * (linear.in_features + linear.out_features) * tokens

        maps = [part for part in self.model.decoder.layers.modules() if isinstance(part, nn.Linear)]
        handles = [part.register_forward_hook(count) for part in maps]
        with torch.no_grad():
            for part in (part for whole in prepared for part in self.parts(whole)):
                self.loss(part)
        for handle in handles:
            handle.remove()
        return total


class Peft(Transformers):
    """PEFT's LoRA on ``LlavaForConditionalGeneration``.

    Args:
        preset: the model's shapes.
        device: where.
        dtype: of the frozen language model.
        ours: sides that get this one's weights; it takes their adapters.
    """

    def __init__(
        self, preset: Preset, device: torch.device, dtype: torch.dtype, ours: Sequence[WithoutAdapters] = ()
    ) -> None:
        from peft import PeftModel

        super().__init__(preset, device, dtype)
        self.base = self.model
        for side in ours:
            copy_weights(self.base, side.model)
        found = [side.adapters for side in ours if isinstance(side, WithAdapters)]
        with torch.device("meta"):
            decoder = our_decoder(preset, dtype)
        adapters = found[0] if found else random_adapters(decoder)
        tensors = {name: tensor.cpu() for name, tensor in adapters.state_dict().items()}
        with tempfile.TemporaryDirectory() as folder:
            write_adapter(Path(folder), adapters.config(), tensors, describe(decoder), None)
            self.model = PeftModel.from_pretrained(self.base, folder, is_trainable=True).to(device)

    def learn(self, names: Sequence[str]) -> None:
        """Choose what learns beside the adapters, and build a new optimizer."""
        self.base.model.vision_tower.requires_grad_("vision" in names)
        self.base.model.multi_modal_projector.requires_grad_("projector" in names)
        # The pooled output gets no gradient.
        vision_of(self.base).post_layernorm.requires_grad_(False)
        self.start()


AdapterSide = WithoutAdapters | Peft


def make_adapter_sides(
    preset: Preset, device: torch.device, dtype: torch.dtype, names: Sequence[str] = SIDES
) -> dict[str, AdapterSide]:
    """Build the sides that are wanted, with the same weights.

    Args:
        preset: the model's shapes.
        device: where.
        dtype: of the frozen language model.
        names: some of ``SIDES``.
    """
    kinds = {"without adapters": WithoutAdapters, "adapters": WithAdapters}
    ours = {name: kind(preset, device, dtype) for name, kind in kinds.items() if name in names}
    return {**ours, "PEFT": Peft(preset, device, dtype, list(ours.values()))} if "PEFT" in names else dict(ours)


def random_adapters(decoder: TransformerDecoder) -> LanguageModelAdapters:
    """Build adapters whose updates are not zero, so that both matrices of each get a gradient.

    Args:
        decoder: on any device; the adapters are made on the default device.
    """
    adapters = adapters_for(decoder)
    for name, parameter in adapters.named_parameters():
        if name.endswith("lora_b.weight"):
            nn.init.normal_(parameter, std=0.02)
    return adapters
