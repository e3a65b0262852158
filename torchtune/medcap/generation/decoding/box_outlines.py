"""Masks of boxes: each box of an answer is a prompt for a frozen SAM, for runs that give boxes but no masks."""

from __future__ import annotations

from dataclasses import replace

import torch

from medcap.data.boxes.box import Box
from medcap.data.boxes.style import BoxStyle
from medcap.data.outputs import Outputs
from medcap.data.regions.region import Region, RunLength
from medcap.data.regions.run_length import encode
from medcap.data.regions.shown import original_mask
from medcap.generation.decoding.finite import check_finite
from medcap.generation.decoding.seen_image import SeenImage
from medcap.models.mask_decoders.sam_features import KeptFeatures
from medcap.models.mask_decoders.sam_files import sha256_of
from medcap.models.mask_decoders.sam_model import SamModelParts
from medcap.models.preprocess import Preprocess


class BoxOutliner:
    """Outlines the boxes of answers.

    Args:
        sam: the model, on its device.
        style: how boxes are written in the texts of the run.
        dtype: precision that pictures are encoded in.
    """

    def __init__(self, sam: SamModelParts, style: BoxStyle, dtype: torch.dtype = torch.float32) -> None:
        self._sam, self._style, self._dtype = sam.eval(), style, dtype
        self._kept = KeptFeatures(self._encode, sha256_of({}, sam.description), None)

    @property
    def own_picture(self) -> Preprocess:
        """How images become its pictures."""
        return self._sam.description.preprocess

    def outline(self, text: str, outputs: Outputs, image: SeenImage, number: int) -> Outputs:
        """Add the masks of an answer's boxes.

        Args:
            text: the answer; its boxes are read where the model gives none beside it.
            outputs: results beside the text.
            image: the image that the boxes lie on.
            number: number of the image in the conversation, from 0.

        Returns:
            The results with a mask for each box, None for one under which nothing is found; unchanged without boxes.

        Raises:
            UserError: if the SAM computes numbers that are not finite.
        """
        boxes = outputs.boxes
        if boxes is None:
            boxes = tuple(self._style.find(text, image.frame.size, image.frame.fit))
        if not boxes or outputs.masks is not None:
            return outputs
        with torch.no_grad():
            return replace(outputs, masks=tuple(self._mask(box, image, number) for box in boxes))

    def _mask(self, box: Box, image: SeenImage, number: int) -> Region | None:
        frame, picture = image.own_frame, image.own_picture
        assert frame is not None and picture is not None, "images are read for it"
        edges = frame.to_shown(box.edges)
        if edges is None:
            return None
        side = self.own_picture.image_size
        prompt = torch.tensor([edges], device=picture.device) * side  # [1, 4]
        features = self._kept.of(picture[None], self._dtype, in_memory=True)
        found = self._sam.masks(features, self._sam.embed_boxes(prompt))
        check_finite("SAM", found.logits)
        mask = original_mask(found.logits[0], frame)
        if not mask.any():
            return None
        written = encode(mask)
        height, width = written["size"]
        return Region(RunLength((height, width), written["counts"]), box.label, number)

    def _encode(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        low = self._dtype != torch.float32
        with torch.autocast(pictures.device.type, dtype=self._dtype if low else None, enabled=low):
            return self._sam.features(pictures)
