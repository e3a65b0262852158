"""Vision encoders of transformers without a text half: DINOv2 (RAD-DINO), DINOv3 and ConvNeXt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.models.towers.base import Tower

_VIT = ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps", "layerscale_value")
_PATCHES = ("image_size", "patch_size", "num_channels")
_DINOV2 = (*_VIT, *_PATCHES, "mlp_ratio", "qkv_bias", "use_swiglu_ffn")
_CONVNEXT = ("hidden_sizes", "depths", "hidden_act", "layer_norm_eps", "num_channels")
_DINOV2_NAMES = (
    # The files keep the names of transformers 4.
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
)


@dataclass(frozen=True)
class Family:
    """A model type of transformers.

    Attributes:
        name: start of its classes' names, such as ``Dinov2`` of ``Dinov2Config`` and ``Dinov2Model``.
        fields: fields of its configuration that make the architecture.
        prefix: name before a tensor in files that hold a head too.
        renamed: patterns of the names in files, and their replacements in the model of the pinned transformers.
        norm: the model's final norm, which the last layer's tokens pass; "" for a feature map, which does not.
        fixed: fields with values that fine-tuning needs, whatever the file says.
    """

    name: str
    fields: tuple[str, ...]
    prefix: str
    renamed: tuple[tuple[str, str], ...] = ()
    norm: str = ""
    fixed: tuple[str, ...] = ()

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """Build the model with random weights."""
        import transformers

        fields = {name: value for name, value in config.items() if name != "model_type"}
        # Random changes of the positions are a pre-training's.
        fields |= dict.fromkeys(self.fixed)
        return getattr(transformers, f"{self.name}Model")(getattr(transformers, f"{self.name}Config")(**fields))


FAMILIES = {
    "dinov2": Family("Dinov2", (*_DINOV2, "use_mask_token"), "dinov2.", _DINOV2_NAMES, "layernorm"),
    "dinov2_with_registers": Family(
        "Dinov2WithRegisters",
        (*_DINOV2, "num_register_tokens"),
        "dinov2_with_registers.",
        _DINOV2_NAMES,
        "layernorm",
    ),
    "dinov3_vit": Family(
        "DINOv3ViT",
        (
            *_VIT,
            *_PATCHES,
            "intermediate_size",
            "rope_theta",
            "query_bias",
            "key_bias",
            "value_bias",
            "proj_bias",
            "mlp_bias",
            "use_gated_mlp",
            "num_register_tokens",
        ),
        "dinov3_vit.",
        ((r"^layer\.", "model.layer."),),
        "norm",
        ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"),
    ),
    "dinov3_convnext": Family(
        "DINOv3ConvNext",
        (*_CONVNEXT, "layer_scale_init_value"),
        "dinov3_convnext.",
        ((r"^stages\.", "model.stages."),),
        "layer_norm",
    ),
    "convnext": Family("ConvNext", (*_CONVNEXT, "patch_size", "layer_scale_init_value"), "convnext."),
    "convnextv2": Family("ConvNextV2", (*_CONVNEXT, "patch_size"), "convnextv2."),
}
# Parts of a file that no tower has.
_HEADS = ("classifier.",)


class TransformersTower(Tower):
    """A vision encoder of transformers that takes any image size.

    Patch tokens are the model's output after its final norm, without the class token and the registers; for ConvNeXt
    they are the last feature map, row by row. A tower that is cut before its last layer gives that layer's output as
    it is, without the norm: ``hidden_states`` of transformers. The pooled vector is the model's pooler output.

    Args:
        spec: ``config``: fields of transformers' configuration with its model_type; ``norm``: False for a tower that
            is cut.
        preprocess: preprocess of the same model.
    """

    def __init__(self, spec: dict[str, Any], preprocess: Preprocess) -> None:
        super().__init__(spec, preprocess)
        config = spec["config"]
        self.family = FAMILIES[config["model_type"]]
        self.model: Any = self.family.build(config)
        self.has_pooled = spec.get("norm", True)
        if not self.has_pooled:
            setattr(self.model, self.family.norm, nn.Identity())
        # Tokens before those of the patches: the class token and the registers.
        self.prefix = 1 + config.get("num_register_tokens", 0) if self.family.norm else 0

    def encode_patches(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, T, D]``."""
        hidden = self.model(self._cast(images)).last_hidden_state  # [N, prefix + T, D] or [N, D, h, w]
        return hidden[:, self.prefix :] if hidden.ndim == 3 else hidden.flatten(2).transpose(1, 2)

    def encode_pooled(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, D]``.

        Raises:
            UserError: for a tower that is cut before its last layer.
        """
        if not self.has_pooled:
            raise UserError("vision: a tower that is cut has no pooled vector; use a projector that takes patches")
        return self.model(self._cast(images)).pooler_output

    def restore_buffers(self) -> None:
        """Frequencies of the rotary positions, which checkpoints do not hold."""
        rotary = getattr(self.model, "rope_embeddings", None)
        if rotary is not None:
            self.model.rope_embeddings = type(rotary)(self.model.config)


def transformers_spec(fields: Mapping[str, Any], location: Path) -> dict[str, Any]:
    """Return a tower's specification from the fields of a ``config.json``.

    Args:
        fields: fields with ``model_type``, one of ``FAMILIES``; a missing one has transformers' default, one that no
            tower needs is left out.
        location: the file, for messages.

    Raises:
        UserError: if they are impossible.
    """
    import transformers

    family = FAMILIES[fields["model_type"]]
    try:
        config = getattr(transformers, f"{family.name}Config")(
            **{name: fields[name] for name in family.fields if name in fields}
        )
    except Exception as error:  # transformers' validation raises classes of several libraries
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{location}: the vision configuration is impossible: {reason}") from error
    values = {name: getattr(config, name) for name in family.fields}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {"kind": "transformers", "config": {"model_type": fields["model_type"], **values}}


def transformers_name(model_type: str, name: str) -> str | None:
    """Return a tensor's name in the tower from its name in a file of transformers; None for a head's."""
    family = FAMILIES[model_type]
    name = name.removeprefix(family.prefix)
    if name.startswith(_HEADS):
        return None
    for pattern, replacement in family.renamed:
        name = re.sub(pattern, replacement, name)
    return f"model.{name}"
