"""One training step on each side of the comparison, over the same weights and samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from full_rows import pack, sample_of
from torch import Tensor, nn
from torchtune.modules import TransformerDecoder
from training_workloads import EOT, IMAGE, PAD, Example, Preset

from helpers.plain_training import pad, plain_loss
from medcap.checkpoints.llm_conversion import hugging_face_conversion
from medcap.data.batch import Batch, make_batch
from medcap.data.packing import pack_row
from medcap.data.shared_prefix import continue_prompt_prefix, find_prompt_prefix
from medcap.models.component import Component
from medcap.models.preprocess import Preprocess
from medcap.models.projectors.mlp import mlp
from medcap.models.towers.hugging_face_tower import HuggingFaceTower
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.modules.frozen_linear import UNQUANTISED, check_device, check_layers, quantise_layer
from medcap.training.trainable import set_trainable

Prepared = list[Any]


class Side(ABC):
    """What a user of one system runs for a step: forward, backward, clipping, AdamW.

    Args:
        preset: the model's shapes.
        device: where.
        dtype: of the frozen language model.
    """

    model: Any

    def __init__(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> None:
        self.preset, self.device, self.dtype = preset, device, dtype

    def start(self) -> None:
        """Make the optimizer, over what trains, after the weights are there."""
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        # At a rate of 0 a step does all its work and leaves the weights: sides that share a model stay comparable.
        self.optimizer = torch.optim.AdamW(self.trained, lr=0.0, fused=True)

    @abstractmethod
    def prepare(self, examples: Sequence[Example], images: Tensor) -> Prepared:
        """Return the step's batches, as the data loader's workers make them; not part of the step."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Return summed cross-entropy of one batch."""

    def parts(self, batch: Any) -> list[Any]:
        """Return what of a batch is computed one after another."""
        return [batch]

    def step(self, prepared: Prepared, num_labels: int) -> float:
        """One optimizer step; the loss is the mean over all label tokens."""
        loss = self.backward(prepared, num_labels)
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def backward(self, prepared: Prepared, num_labels: int) -> Tensor:
        """Forward and backward over all batches of a step."""
        total = torch.zeros((), device=self.device)
        for batch in (part for whole in prepared for part in self.parts(whole)):
            loss = self.loss(batch) / num_labels
            loss.backward()
            total += loss.detach()
        return total


class Ours(Side):
    """Packed rows, one copy of an image for all its questions, the way of training of frozen layers.

    Attributes:
        caches_prompt_prefix: compute the words before the image once; adapters that train change them with every step.
    """

    caches_prompt_prefix = True

    def __init__(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(preset, device, dtype)
        self.model = our_model(preset, device, dtype)
        set_trainable(self.model, ["vision", "projector"])

    def prepare(self, examples: Sequence[Example], images: Tensor) -> Prepared:
        """Pack the samples, all of the step in one batch."""
        samples = [sample_of(example, self.preset) for example in examples]
        prompt_prefix = find_prompt_prefix(samples, IMAGE) if self.caches_prompt_prefix else ()
        self.model.cache_prompt_prefix(prompt_prefix)
        samples = [continue_prompt_prefix(sample, prompt_prefix, IMAGE) for sample in samples]
        rows = [
            pack_row([[samples[index] for index in document] for document in row], self.preset.row_length, EOT)
            for row in pack(samples, self.preset)
        ]
        batch = make_batch(
            rows,
            IMAGE,
            self.preset.image_tokens,
            lambda image: images[int(image.path)],
            prompt_prefix=prompt_prefix,
            static_shape=True,
        )
        return [batch.to(self.device)]

    def parts(self, batch: Batch) -> list[Batch]:
        """As the recipes' training loop asks for them."""
        return self.model.micro_batches(batch)

    def loss(self, batch: Batch) -> Tensor:
        """``VisionLanguageModel.loss``, as the recipes call it."""
        return self.model.losses(batch)["text"]


class Plain(Ours):
    """``helpers/plain_training.py`` over the same modules."""

    def prepare(self, examples: Sequence[Example], images: Tensor) -> Prepared:
        """Make padded batches."""
        return [
            [tensor.to(self.device) for tensor in (tokens, labels, pixels)]
            for tokens, labels, _, pixels in _padded(examples, images, self.preset)
        ]

    def parts(self, batch: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """All of it at once."""
        return [batch]

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        """All logits, layers computed again in the backward pass."""
        return plain_loss(self.model, *batch)


class Transformers(Side):
    """``LlavaForConditionalGeneration`` with the language model frozen, SDPA, and the usual padded collator.

    Args:
        preset: the model's shapes.
        device: where.
        dtype: of the frozen language model.
        checkpointing: call ``gradient_checkpointing_enable()``.
    """

    def __init__(self, preset: Preset, device: torch.device, dtype: torch.dtype, checkpointing: bool = False) -> None:
        super().__init__(preset, device, dtype)
        self.model = _llava(preset, device, dtype)
        self.checkpointing = checkpointing

    def prepare(self, examples: Sequence[Example], images: Tensor) -> Prepared:
        """Make padded batches with attention masks."""
        return [
            {
                "input_ids": tokens.to(self.device),
                "labels": labels.to(self.device),
                "attention_mask": mask.to(self.device),
                "pixel_values": Preprocess(self.preset.image_size).normalize(pixels).to(self.device),
            }
            for tokens, labels, mask, pixels in _padded(examples, images, self.preset)
        ]

    def backward(self, prepared: Prepared, num_labels: int) -> Tensor:
        """As the others, with or without checkpointing: one model serves both sides."""
        self.model.train()
        if self.checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.model.gradient_checkpointing_disable()
        return super().backward(prepared, num_labels)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Its own loss: the Trainer passes the number of label tokens, so that it is a sum divided by it."""
        low = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype if low else None, enabled=low):
            return self.model(**batch, use_cache=False, num_items_in_batch=1).loss


class PaddingFree(Transformers):
    """The same, with the samples of a batch one after another in one row.

    transformers' ``DataCollatorWithFlattening`` makes such rows. Positions start at 0 in each sample, so transformers
    knows where each sample ends. FlashAttention has kernels for such rows, but not on a CPU: there, transformers masks
    the scores between samples.
    """

    def prepare(self, examples: Sequence[Example], images: Tensor) -> Prepared:
        """Make rows without padding or attention masks."""
        return [
            self._flat(examples[start : start + self.preset.batch_size], images)
            for start in range(0, len(examples), self.preset.batch_size)
        ]

    def _flat(self, examples: Sequence[Example], images: Tensor) -> dict[str, Tensor]:
        tokens, labels, positions = [], [], []
        for example in examples:
            ids, targets = example.tokens(self.preset.image_tokens)
            tokens += ids
            # Nothing predicts the first token of a sample.
            labels += [-100, *targets[1:]]
            positions += range(len(ids))
        pixels = images[torch.tensor([example.image for example in examples])]
        rows = {"input_ids": tokens, "labels": labels, "position_ids": positions}
        return {name: torch.tensor([values], device=self.device) for name, values in rows.items()} | {
            "pixel_values": Preprocess(self.preset.image_size).normalize(pixels).to(self.device)
        }


def make_sides(
    preset: Preset, device: torch.device, dtype: torch.dtype, names: Sequence[str], llm_weights: str = UNQUANTISED
) -> dict[str, Side]:
    """Build the sides that are wanted, with the same weights.

    Args:
        preset: the model's shapes.
        device: where.
        dtype: of the frozen language model.
        names: some of ``SIDES``.
        llm_weights: of our decoder's layers.
    """
    check_device(llm_weights, device)
    sides: dict[str, Side] = {}
    if any(name.startswith("transformers") for name in names):
        whole = Transformers(preset, device, dtype)
        sides["transformers"] = whole
        checkpointed = Transformers.__new__(Transformers)
        vars(checkpointed).update(vars(whole), checkpointing=True)
        sides["transformers, checkpointing"] = checkpointed
        sides["transformers, padding-free"] = PaddingFree.__new__(PaddingFree)
        vars(sides["transformers, padding-free"]).update(vars(whole))
    if any(not name.startswith("transformers") for name in names):
        ours = Ours(preset, device, dtype)
        if sides:
            copy_weights(sides["transformers"].model, ours.model)
        layers: Any = ours.model.decoder.layers
        check_layers(layers, llm_weights)
        for layer in layers:
            quantise_layer(layer, llm_weights)
        sides["ours"] = ours
        sides["plain"] = Plain.__new__(Plain)
        vars(sides["plain"]).update(vars(ours))
    for side in sides.values():
        side.start()
    return {name: sides[name] for name in names}


SIDES = ("ours", "plain", "transformers", "transformers, checkpointing", "transformers, padding-free")


def random_images(preset: Preset, examples: Sequence[Example]) -> Tensor:
    """Return an image for each that examples show, ``[N, 3, H, W]`` uint8, as a data loader hands them over."""
    count = 1 + max(example.image for example in examples)
    return torch.randint(256, (count, 3, preset.image_size, preset.image_size), dtype=torch.uint8)


def _padded(examples: Sequence[Example], images: Tensor, preset: Preset) -> list[tuple[Tensor, ...]]:
    batches = []
    for start in range(0, len(examples), preset.batch_size):
        chosen = examples[start : start + preset.batch_size]
        tokens, labels, mask = pad([example.tokens(preset.image_tokens) for example in chosen], PAD)
        batches.append((tokens, labels, mask, images[torch.tensor([example.image for example in chosen])]))
    return batches


def _vision_config(preset: Preset) -> dict[str, Any]:
    return {
        "hidden_size": preset.tower_dim,
        "intermediate_size": 4 * preset.tower_dim,
        "num_hidden_layers": preset.tower_layers,
        "num_attention_heads": preset.tower_heads,
        "image_size": preset.image_size,
        "patch_size": preset.patch_size,
    }


def our_model(
    preset: Preset,
    device: torch.device,
    dtype: torch.dtype,
    further: Callable[[TransformerDecoder], Sequence[Component]] = lambda decoder: (),
) -> VisionLanguageModel:
    """Build our model, its weights random.

    Args:
        preset: the model's shapes.
        device: where.
        dtype: of the frozen language model.
        further: builds the components other than tower and projector, on the device.
    """
    from medcap.models.towers.hugging_face_tower import hugging_face_spec

    spec = hugging_face_spec("clip_vision_model", _vision_config(preset), Path("benchmark"))
    with torch.device(device):
        tower = HuggingFaceTower(spec, Preprocess(preset.image_size))
        projector = mlp(tower.shape, preset.dim)
        decoder = our_decoder(preset, dtype)
        added = further(decoder)
    layers: Any = decoder.layers
    for layer in layers:
        layer.attn.pos_embeddings.rope_init()
    model = VisionLanguageModel(tower, projector, decoder, IMAGE, added).to(device)
    return model.train()


def our_decoder(preset: Preset, dtype: torch.dtype) -> TransformerDecoder:
    """Build the language model on the default device, its weights random."""
    from torchtune.models.llama3 import llama3

    torch.set_default_dtype(dtype)
    decoder = llama3(
        vocab_size=preset.vocab_size,
        num_layers=preset.layers,
        num_heads=preset.heads,
        num_kv_heads=preset.kv_heads,
        embed_dim=preset.dim,
        max_seq_len=2 * preset.row_length,
        intermediate_dim=preset.intermediate_dim,
    )
    torch.set_default_dtype(torch.float32)
    return decoder


def _llava(preset: Preset, device: torch.device, dtype: torch.dtype) -> nn.Module:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(
        vocab_size=preset.vocab_size,
        hidden_size=preset.dim,
        intermediate_size=preset.intermediate_dim,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        num_key_value_heads=preset.kv_heads,
        rms_norm_eps=1e-5,
        rope_theta=500_000.0,
        max_position_embeddings=2 * preset.row_length,
        tie_word_embeddings=False,
        pad_token_id=PAD,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_vision_config(preset)),
        text_config=text,
        image_token_id=IMAGE,
        # The same tokens as ours: all patches of the last layer.
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    with torch.device(device):
        model = LlavaForConditionalGeneration(config)
    model.requires_grad_(False)
    for part in (model.model.language_model, model.lm_head):
        part.to(dtype)
    model.model.vision_tower.requires_grad_(True)
    model.model.multi_modal_projector.requires_grad_(True)
    # The pooled output gets no gradient.
    vision_of(model).post_layernorm.requires_grad_(False)
    return model.to(device)


def vision_of(llava: Any) -> nn.Module:
    """Return transformers' CLIP tower in its LLaVA."""
    tower = llava.model.vision_tower
    return getattr(tower, "vision_model", tower)


@torch.no_grad()
def copy_weights(llava: Any, ours: Any) -> None:
    """Give our model the weights of transformers' one."""
    ours.tower.vision_model.load_state_dict(vision_of(llava).state_dict())
    theirs = llava.model.multi_modal_projector.state_dict()
    names = {"linear_1": "0", "linear_2": "2"}
    ours.projector.load_state_dict(
        {f"{names[name.split('.')[0]]}.{name.split('.')[1]}": tensor for name, tensor in theirs.items()}
    )
    text = {f"model.{name}": tensor for name, tensor in llava.model.language_model.state_dict().items()}
    text["lm_head.weight"] = llava.lm_head.weight
    ours.decoder.load_state_dict(hugging_face_conversion(ours.decoder).to_decoder(text))
