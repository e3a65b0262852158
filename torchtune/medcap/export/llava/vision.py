"""The vision side inside a LLaVA folder: tower and projector under transformers' names, and the proof that they fit."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medcap.errors import UserError
from medcap.models.projectors.mlp import PatchMLP
from medcap.models.towers.base import Tower
from medcap.models.towers.hugging_face_tower import HuggingFaceTower
from medcap.models.towers.multi_scale import MultiScaleTower
from medcap.models.towers.open_clip_tower import OpenClipTimmTower

TOWER_PREFIX = "vision_tower."
PROJECTOR_PREFIX = "multi_modal_projector."
# Of the features' norm: fp32 sums in another order stay far below, another activation function does not.
_TOLERANCE = 1e-4
_ACTIVATIONS = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}


@dataclass(frozen=True)
class LlavaTower:
    """A tower in transformers' terms.

    Attributes:
        config: ``vision_config``.
        tensors: tensors under the names that follow ``vision_tower.``.
        select_strategy: "default" drops the first token, the class token; "full" keeps all.
        patch_size: edge of a patch in pixels.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    select_strategy: str
    patch_size: int


def llava_tower(tower: Tower) -> LlavaTower:
    """Find the transformers vision model that is this tower.

    CLIP and SigLIP towers are transformers' own. A timm ViT with a class token, as BiomedCLIP's, is its ``vit`` model
    with ``tie_last_hidden_states``, which makes the last hidden state the one after the final norm; timm keeps query,
    key and value in one matrix.

    Args:
        tower: tower with weights, or on the meta device.

    Raises:
        UserError: if there is none.
    """
    if isinstance(tower, HuggingFaceTower):
        return _hugging_face_tower(tower)
    if isinstance(tower, MultiScaleTower):
        raise UserError("--format hf: LLaVA has no image at several scales (vision.scales); serve the run itself")
    if isinstance(tower, OpenClipTimmTower) and "layers" not in tower.spec:
        found = _vit(tower)
        if found is not None:
            return found
    raise UserError(
        f"--format hf: transformers has no vision model that LLaVA could use as this {tower.spec['kind']} tower; clip,"
        " siglip and biomedclip can be exported; the run itself serves through medcap"
    )


def oldest_transformers(spec: Mapping[str, Any]) -> str:
    """Return the first transformers release that reads the right hidden state; earlier ones give another without a
    word.

    4.57 takes SigLIP's output after the final norm for its last hidden state, and a ViT's before it until 5.18 learnt
    ``tie_last_hidden_states``.

    Args:
        spec: spec of a tower that :func:`llava_tower` takes.
    """
    if spec["kind"] == "hugging_face":
        return {"clip_vision_model": "4.57", "siglip_vision_model": "5.0"}[spec["config"]["model_type"]]
    return "5.18"


def llava_projector(projector: nn.Module, llm_dim: int) -> dict[str, Tensor]:
    """Return a projector's tensors behind ``multi_modal_projector.``.

    LLaVA's hidden layer is as wide as the language model. A narrower one is filled up with units whose weights are
    zero, which changes nothing: GELU(0) = 0.

    Args:
        projector: projector with weights, or on the meta device.
        llm_dim: width of the language model's embeddings, d.

    Raises:
        UserError: if it is not LLaVA's two-layer MLP over every patch.
    """
    if not isinstance(projector, PatchMLP) or len(projector) != 3:
        raise UserError(
            "--format hf: LLaVA's projector is a two-layer MLP for each patch, so only projector=medcap.models.mlp can"
            " be exported; --format medcap writes a pooled_mlp"
        )
    if projector.pooled is not None:
        raise UserError(
            f"--format hf: LLaVA has a token for each patch and cannot pool them to num_image_tokens="
            f"{projector.num_image_tokens}; train with projector.num_image_tokens=null to export it, or serve the run"
        )
    state = projector.state_dict()
    hidden = state["0.weight"].shape[0]
    if hidden > llm_dim:
        raise UserError(
            f"--format hf: LLaVA's projector has a hidden layer as wide as the language model ({llm_dim}), this one has"
            f" projector.hidden_dim={hidden}; train with {llm_dim} or fewer to export, or serve the run itself"
        )
    missing = llm_dim - hidden
    return {
        "linear_1.weight": nn.functional.pad(state["0.weight"], (0, 0, 0, missing)),  # [d, D]
        "linear_1.bias": nn.functional.pad(state["0.bias"], (0, missing)),  # [d]
        "linear_2.weight": nn.functional.pad(state["2.weight"], (0, missing)),  # [d, d]
        "linear_2.bias": state["2.bias"],
    }


@torch.no_grad()
def check_tower(tower: Tower, exported: LlavaTower) -> None:
    """Compare what transformers' model gives with what the tower gives, on random pixels.

    Args:
        tower: tower with weights, fp32.
        exported: made of it.

    Raises:
        UserError: if they differ: then the export would see other things than the run.
    """
    from transformers import AutoConfig, AutoModel

    fields = {name: value for name, value in exported.config.items() if name != "model_type"}
    config = AutoConfig.for_model(exported.config["model_type"], **fields)
    with torch.device("meta"):
        kind = type(AutoModel.from_config(config))
    with without_progress():
        model, found = kind.from_pretrained(
            None, config=config, state_dict=exported.tensors, output_loading_info=True, dtype=torch.float32
        )
    wrong = sorted({*found["missing_keys"], *found["unexpected_keys"]})
    if wrong:
        raise UserError(f"--format hf: transformers' {config.model_type} model has another set of tensors: {wrong[0]}")
    size = tower.preprocess.image_size
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    theirs = model.eval()(pixels, output_hidden_states=True).hidden_states[-1]
    theirs = theirs[:, 1:] if exported.select_strategy == "default" else theirs
    ours = tower.eval().encode_patches(pixels)
    if theirs.shape != ours.shape or (theirs - ours).norm() > _TOLERANCE * ours.norm():
        raise UserError(
            f"--format hf: transformers' {exported.config['model_type']} model gives other features than this"
            f" {tower.spec['kind']} tower, so it cannot be exported; serve the run itself"
        )


@contextlib.contextmanager
def without_progress() -> Generator[None]:
    """Hide the bar that transformers shows even for a moment's work."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _hugging_face_tower(tower: HuggingFaceTower) -> LlavaTower:
    config = dict(tower.spec["config"])
    # LLaVA never uses CLIP's projection of the pooled vector; everything else of the tower goes along.
    state = {f"vision_model.{name}": tensor for name, tensor in tower.vision_model.state_dict().items()}
    return LlavaTower(config, state, "default" if tower.is_clip else "full", config["patch_size"])


def _vit(tower: OpenClipTimmTower) -> LlavaTower | None:
    """None for a trunk with parts that transformers' ViT lacks; :func:`check_tower` finds other differences."""
    trunk = tower.trunk
    blocks = getattr(trunk, "blocks", None)
    if type(trunk).__name__ != "VisionTransformer" or getattr(trunk, "num_prefix_tokens", 0) != 1 or not blocks:
        return None
    if not isinstance(blocks[0].mlp.act, nn.GELU):
        return None
    attention, patches = blocks[0].attn, trunk.patch_embed.proj
    config = {
        "model_type": "vit",
        "hidden_size": trunk.embed_dim,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": attention.num_heads,
        "intermediate_size": blocks[0].mlp.fc1.out_features,
        "hidden_act": _ACTIVATIONS[blocks[0].mlp.act.approximate],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": trunk.norm.eps if isinstance(trunk.norm, nn.LayerNorm) else 1e-6,
        "image_size": tower.preprocess.image_size,
        "patch_size": patches.kernel_size[0],
        "num_channels": patches.in_channels,
        "qkv_bias": attention.qkv.bias is not None,
        "tie_last_hidden_states": True,
        # What medcap import rebuilds the trunk from.
        "timm_model_name": tower.spec["vision_cfg"]["timm_model_name"],
    }
    tensors: dict[str, Tensor] = {}
    for name, tensor in trunk.state_dict().items():
        renamed = _vit_names(name)
        if not renamed:
            return None
        tensors |= zip(renamed, tensor.chunk(len(renamed)), strict=True)
    # transformers' model has a pooler that LLaVA never asks; left out, it would be reported as missing.
    dim = trunk.embed_dim
    tensors |= {"pooler.dense.weight": torch.zeros(dim, dim), "pooler.dense.bias": torch.zeros(dim)}
    return LlavaTower(config, tensors, "default", patches.kernel_size[0])


VIT_OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
# timm's names in a block -> those of transformers' ViT checkpoints on the hub.
VIT_BLOCK = {
    "norm1": ("layernorm_before",),
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": ("attention.output.dense",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}


def _vit_names(name: str) -> tuple[str, ...]:
    """Return the names of what a tensor of the trunk becomes; none for an unknown one."""
    if name in VIT_OUTSIDE:
        return (VIT_OUTSIDE[name],)
    first, _, rest = name.partition(".")
    number, _, location = rest.partition(".")
    part, _, leaf = location.rpartition(".")
    if first != "blocks" or part not in VIT_BLOCK:
        return ()
    return tuple(f"encoder.layer.{number}.{new}.{leaf}" for new in VIT_BLOCK[part])
