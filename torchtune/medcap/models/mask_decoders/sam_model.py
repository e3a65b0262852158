"""transformers' SAM and SAM 2 as two steps: pictures -> features, features and prompts -> masks."""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcap.errors import UserError
from medcap.models.mask_decoders.sam_files import SamDescription, SamFolder


class SamMasks(NamedTuple):
    """Masks of M prompts.

    Attributes:
        logits: ``[M, side, side]`` float32 over the whole square of the picture, padding included; above 0 inside.
        estimate: ``[M]`` the IoU that the model expects of each.
        seen: ``[M]`` SAM 2's object score, positive where the picture shows the object; None for SAM.
    """

    logits: Tensor
    estimate: Tensor
    seen: Tensor | None


class SamModelParts(nn.Module):
    """A SAM of which encoder and mask decoder are called apart, with gradients and with any prompt embedding.

    transformers' ``get_image_embeddings`` and ``get_prompt_embeddings`` keep no gradient, and its ``forward`` takes no
    embedding of a prompt.

    Args:
        description: of the model.
        single: give SAM 2's single mask always. Its model may take another one of its masks, in evaluation mode only,
            so that a mask would not be what training has seen.
    """

    def __init__(self, description: SamDescription, single: bool = True) -> None:
        super().__init__()
        self.description = description
        self.sam: Any = _build(description, single)
        # transformers makes one tensor of the two, which safetensors does not store.
        position = self.sam.shared_image_embedding.positional_embedding.detach().clone()
        if isinstance(self.sam.prompt_encoder.shared_embedding.positional_embedding, nn.Parameter):
            position = nn.Parameter(position)
        self.sam.prompt_encoder.shared_embedding.positional_embedding = position

    @property
    def width(self) -> int:
        """Width C of a prompt's embedding."""
        return self.sam.prompt_encoder.no_mask_embed.weight.shape[1]

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Encode pictures.

        Args:
            pictures: ``[P, 3, S, S]`` uint8.

        Returns:
            ``[P, c, h, w]`` each: SAM 2's two maps of higher resolution, for SAM none; then the features, c = C.
        """
        pixels = self.description.preprocess.normalize(pictures)
        if not self.description.is_sam2:
            return [self.sam.vision_encoder(pixels).last_hidden_state]
        maps = list(self.sam.get_image_features(pixels, return_dict=True).fpn_hidden_states)  # [h * w, P, c] each
        maps[-1] = maps[-1] + self.sam.no_memory_embedding
        sizes = self.sam.backbone_feature_sizes
        return [one.permute(1, 2, 0).unflatten(2, tuple(size)) for one, size in zip(maps, sizes, strict=True)]

    def masks(self, features: list[Tensor], sparse: Tensor) -> SamMasks:
        """Give one mask for each prompt.

        Args:
            features: as :meth:`features` returns them, of the picture of each prompt: ``[M, c, h, w]`` each, float32.
            sparse: ``[M, n, C]`` embeddings of the prompts, float32.
        """
        *finer, image = features
        dense = self.sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(image)
        position = self.sam.get_image_wide_positional_embeddings().expand(len(image), -1, -1, -1)
        options: dict[str, Any] = {"high_resolution_features": finer} if finer else {}
        found = self.sam.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=position,
            sparse_prompt_embeddings=sparse[:, None],  # one prompt a picture
            dense_prompt_embeddings=dense,
            multimask_output=False,
            **options,
        )
        small, estimate = found[0][:, 0], found[1][:, 0, 0]  # [M, 1, h, w], [M]
        side = self.description.preprocess.image_size
        logits = functional.interpolate(small.float(), size=(side, side), mode="bilinear", align_corners=False)[:, 0]
        return SamMasks(logits, estimate.float(), found[3][:, 0, 0].float() if finer else None)

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """Embed boxes as prompts.

        Args:
            boxes: ``[M, 4]`` left, top, right and bottom in pixels of the picture.

        Returns:
            ``[M, n, C]``.
        """
        sparse, _ = self.sam.prompt_encoder(
            input_points=None, input_labels=None, input_boxes=boxes[:, None], input_masks=None
        )
        return sparse[:, 0]


def read_sam(folder: SamFolder, single: bool = True) -> SamModelParts:
    """Build the model of a folder with its weights, fp32 on the CPU.

    Args:
        folder: the folder.
        single: as for :class:`SamModelParts`.

    Raises:
        UserError: if a tensor is missing, of another shape, or not finite, or if the description contradicts itself.
    """
    check_sam(folder)
    parts = SamModelParts(folder.description, single)
    parts.sam.load_state_dict(folder.tensors.read())
    return parts


def check_sam(folder: SamFolder) -> SamModelParts:
    """Compare a folder's tensors with its description without reading them, and see that the model can be computed.

    Returns:
        The model without memory.

    Raises:
        UserError: if a tensor is missing or of another shape, or if the description contradicts itself.
    """
    description = folder.description
    with torch.device("meta"), _told(folder):
        parts = SamModelParts(description)
    folder.check(parts.sam.state_dict())
    side = description.preprocess.image_size
    with torch.device("meta"), torch.no_grad(), _told(folder):
        features = parts.features(torch.zeros(1, 3, side, side, dtype=torch.uint8))
        parts.masks(features, torch.zeros(1, 1, parts.width))
    return parts


@contextmanager
def _told(folder: SamFolder) -> Generator[None]:
    """Turn what transformers raises for numbers that do not fit each other, which may be any error, into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        path = folder.weights_file.with_name("config.json")
        raise UserError(
            f"{path} contradicts itself or is damaged ({reason}): download the whole folder again"
        ) from error


def _build(description: SamDescription, single: bool) -> nn.Module:
    from transformers import Sam2Config, Sam2Model, SamConfig, SamModel

    parts = copy.deepcopy(description.parts)  # transformers changes what it is given
    if not description.is_sam2:
        return SamModel(SamConfig(**parts))
    if single:
        parts["mask_decoder_config"]["dynamic_multimask_via_stability"] = False
    return Sam2Model(Sam2Config(**parts))
