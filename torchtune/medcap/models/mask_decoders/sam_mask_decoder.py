"""A mask decoder made of SAM, MedSAM or SAM 2.1: the hidden state that predicts ``<SEG>`` is its prompt."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medcap.data.row_masks import MASK_WORD
from medcap.data.storage.cache import cache_folder
from medcap.data.target_tensors import MASK_LOOK
from medcap.errors import UserError
from medcap.models.component import Component
from medcap.models.mask_decoders.base import MaskDecoder, Outlined, check_gradient_scale
from medcap.models.mask_decoders.sam_features import KeptFeatures
from medcap.models.mask_decoders.sam_files import SamDescription, SamFolder, open_sam_folder, sha256_of
from medcap.models.mask_decoders.sam_model import SamModelParts, check_sam, read_sam
from medcap.models.model_plan import PlannedModel
from medcap.models.object_query import check_word

_NAMES = {"sam": "SAM", "sam2": "SAM 2"}
_FIRST_SEEN = 2.0
# Parts of transformers' model that belong to the encoder: SAM 2 makes its finer maps by two layers of its mask decoder.
_ENCODER = ("sam.vision_encoder.", "sam.mask_decoder.conv_s0.", "sam.mask_decoder.conv_s1.")


def sam_mask_decoder(
    plan: PlannedModel,
    path: str,
    train_encoder: bool = False,
    features_cache: bool = False,
    gradient_scale: float = 1.0,
    model: str | None = None,
    sam: Mapping[str, Any] | None = None,
) -> SamMaskDecoder:
    """Build a mask decoder of a SAM.

    Args:
        plan: plan of the model.
        path: folder of SAM, MedSAM or SAM 2.1 in transformers' format: config.json, model.safetensors and
            preprocessor_config.json. A run that was saved holds the weights itself and needs it no more.
        train_encoder: whether the image encoder is trained too.
        features_cache: whether the features of the frozen encoder are kept on disk, in medcap's cache folder.
        gradient_scale: what the gradient is multiplied by that flows from masks into the language model's input.
        model: for checkpoints: name of the model.
        sam: for checkpoints: what rebuilds it without its folder.

    Returns:
        The decoder, with the weights of the folder and a random query.

    Raises:
        UserError: if the folder cannot be read, an option is impossible, or the words lack ``<SEG>``.
    """
    for key, value in {"train_encoder": train_encoder, "features_cache": features_cache}.items():
        if not isinstance(value, bool):
            raise UserError(f"mask_decoder.{key}={value!r} must be true or false")
    if train_encoder and features_cache:
        raise UserError("mask_decoder.features_cache=true keeps what a frozen encoder gives: leave out train_encoder")
    scale = check_gradient_scale(gradient_scale)
    check_word(MaskDecoder.name, "a mask", MASK_WORD, plan)
    if sam is None:
        folder = open_sam_folder(path, f"{MaskDecoder.name}.path")
        parts = _parts_of(folder)
    else:
        parts = SamModelParts(SamDescription.from_dict(sam))
    return SamMaskDecoder(parts, plan.vision.llm_dim, str(path), train_encoder, features_cache, scale)


def _parts_of(folder: SamFolder) -> SamModelParts:
    """Build the model; on the meta device its tensors are only compared with their description."""
    if torch.empty(0).device.type != "meta":
        return read_sam(folder)
    return check_sam(folder)


class SamMaskDecoder(MaskDecoder):
    """SAM's mask decoder with a hidden state as its sparse prompt, and no dense one.

    It looks at a picture of its own: the whole original image as SAM was taught to see it. The mask is read off the
    whole square of that picture, so that padding is cut away where it lies.

    Args:
        parts: the SAM.
        dim: width d of a hidden state.
        path: folder that it was read from.
        train_encoder: whether its image encoder is trained.
        features_cache: whether the encoder's features are kept on disk.
        gradient_scale: as for ``MaskDecoder``.
    """

    unused_label = "frozen part"
    loss_terms = tuple(term for term in MaskDecoder.loss_terms if term != MASK_LOOK)
    loss_weights: ClassVar[Mapping[str, float]] = {term: MaskDecoder.loss_weights[term] for term in loss_terms}

    def __init__(
        self,
        parts: SamModelParts,
        dim: int,
        path: str,
        train_encoder: bool,
        features_cache: bool,
        gradient_scale: float,
    ) -> None:
        super().__init__()
        self.sam = parts.sam
        self._parts = [parts]  # in a list, so that its tensors have one name
        self.path, self.train_encoder, self.features_cache = path, train_encoder, features_cache
        self.gradient_scale = gradient_scale
        self.own_picture = parts.description.preprocess
        width = parts.width
        self.query = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))
        self.seen = None
        if not parts.description.is_sam2:
            last = nn.Linear(width, 1)
            # Objects count as seen until something absent was learnt from: few data name any.
            nn.init.constant_(last.bias, _FIRST_SEEN)
            self.seen = nn.Sequential(nn.Linear(2 * width + 2, width), nn.GELU(), last)
        self._kept: KeptFeatures | None = None
        self._final_norm: list[nn.Module] = []  # the language model's; not a part of this module

    def config(self) -> dict[str, Any]:
        """Return the function's name, its options, and what rebuilds the SAM without its folder."""
        description = self._parts[0].description
        return {
            "_component_": "medcap.models.sam_mask_decoder",
            "path": self.path,
            "train_encoder": self.train_encoder,
            "features_cache": self.features_cache,
            "gradient_scale": self.gradient_scale,
            "model": f"{_NAMES[description.model_type]} for pictures of {description.preprocess.image_size} pixels",
            "sam": description.to_dict(),
        }

    def unused(self, components: Mapping[str, Component]) -> Collection[str]:
        """Find what stays frozen: the prompt encoder, the masks that are not asked for and, mostly, the encoder."""
        names = (name for name, _ in self.named_parameters() if name.startswith("sam."))
        return frozenset(name for name in names if not self._learns(name))

    def _learns(self, name: str) -> bool:
        if name.startswith(_ENCODER):
            return self.train_encoder
        others = "sam.mask_decoder.output_hypernetworks_mlps."
        if name.startswith(others):
            return name.startswith(f"{others}0.")
        return name.startswith("sam.mask_decoder.")

    def attach(self, model: nn.Module) -> None:
        """Keep the language model's final norm, which comes before the query."""
        self._final_norm = [model.get_submodule("decoder.norm")]

    def train(self, mode: bool = True) -> SamMaskDecoder:
        """Set the mode; features that trained weights have made are forgotten."""
        if mode and self.train_encoder:
            self._kept = None
        return super().train(mode)

    def forward(self, hidden: Tensor, patches: Tensor | None, pictures: Tensor, which: Tensor) -> Outlined:
        """See :meth:`MaskDecoder.forward`; it reads no patches."""
        features = [level[which] for level in self._features(pictures, hidden.dtype)]  # [M, c, h, w] each
        query = self.query(self._final_norm[0](hidden).float())  # [M, C]
        found = self._parts[0].masks(features, query[:, None])
        seen = found.seen
        if seen is None:
            assert self.seen is not None, "SAM has no score of its own"
            seen = self._look_for(query, features[-1], found.logits, found.estimate)
        return Outlined(found.logits, found.estimate, seen)

    def _look_for(self, query: Tensor, features: Tensor, logits: Tensor, estimate: Tensor) -> Tensor:
        """Say whether the object is there: by the query, by what lies under its mask, by how sure that is: ``[M]``."""
        assert self.seen is not None
        # The mask itself is not to change for it.
        height, width = features.shape[-2:]
        weights = nn.functional.adaptive_avg_pool2d(logits.detach().sigmoid(), (height, width))  # [M, h, w]
        under = torch.einsum("mchw,mhw->mc", features, weights) / weights.sum(dim=(1, 2)).clamp(min=1e-6)[:, None]
        highest = logits.detach().amax(dim=(1, 2))
        return self.seen(torch.cat([query, under, highest[:, None], estimate.detach()[:, None]], dim=-1))[:, 0]

    def _features(self, pictures: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """Encode pictures in the language model's precision, as the tower does: ``[P, c, h, w]`` float32 each."""

        def encode(pictures: Tensor) -> list[Tensor]:
            low = dtype != torch.float32
            grad = self.train_encoder and torch.is_grad_enabled()
            with (
                torch.set_grad_enabled(grad),
                torch.autocast(pictures.device.type, dtype=dtype if low else None, enabled=low),
            ):
                return self._parts[0].features(pictures)

        if self.training and not self.features_cache:
            return [level.float() for level in encode(pictures)]
        if self._kept is None:
            encoder = {name: value for name, value in self.state_dict().items() if self._encodes(name)}
            folder = cache_folder() / "mask_features" if self.features_cache else None
            self._kept = KeptFeatures(encode, sha256_of(encoder, self._parts[0].description), folder)
        return self._kept.of(pictures, dtype, in_memory=not self.training)

    @staticmethod
    def _encodes(name: str) -> bool:
        return name.startswith((*_ENCODER, "sam.no_memory_embedding"))
