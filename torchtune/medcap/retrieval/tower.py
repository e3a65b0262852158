"""The tower that makes an index, and how to tell that another one is not it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcap.data.images.reader import ImageReader
from medcap.errors import UserError
from medcap.probe.encoders import Encoder, load_encoders
from medcap.probe.examples import Example
from medcap.probe.features import encode
from medcap.retrieval.candidates import Failure

FEATURES = "mean of the patch tokens, L2-normalised, float32"
_SMALLEST = 1e-12  # below this a vector has no direction


@dataclass(frozen=True)
class EncodedImages:
    """Features of images.

    Attributes:
        values: ``[n, d]`` float32 of length 1; zeros for an image that could not be read.
        failures: number of each such image -> why.
    """

    values: np.ndarray
    failures: dict[int, Failure] = field(default_factory=dict)


class RetrievalTower:
    """Encodes images for retrieval.

    Args:
        name: a run's folder, a vision checkpoint, or what ``vision`` takes, as for ``medcap probe``.
        device: where it computes.

    Raises:
        UserError: if there is no such tower.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = str(Path(name).resolve()) if Path(name).exists() else name
        try:
            self._encoder: Encoder = load_encoders(name, "patches", "none", device).after
        except UserError as error:
            # The key that the message names is the option here.
            raise UserError(str(error).replace("vision=", "--tower ")) from error

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What an index says of its tower: ``name``, ``features``, ``preprocess`` and ``fingerprint``.

        The fingerprint is a sha256 over specification, preprocessing and every weight.
        """
        tower = self._encoder.tower
        config = {**tower.config(), "preprocess": self._encoder.preprocess.to_dict()}
        digest = hashlib.sha256(json.dumps([FEATURES, config], sort_keys=True, default=repr).encode())
        for key, value in sorted(tower.state_dict().items()):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
        return {
            "name": self.name,
            "features": FEATURES,
            "preprocess": config["preprocess"],
            "fingerprint": digest.hexdigest(),
        }

    def encode(self, images: list[Path], reader: ImageReader, batch_size: int, label: str) -> EncodedImages:
        """Encode images, each file once.

        Args:
            images: resolved paths.
            reader: opens them.
            batch_size: images that are encoded together.
            label: label of the progress bar.

        Returns:
            Their features, in the order of ``images``.

        Raises:
            UserError: if none can be read, or the tower gives numbers that are not finite.
        """
        examples = [Example(str(path), path, {}, str(path)) for path in images]
        found = encode(examples, [self._encoder], reader, batch_size, label)
        values = found.values[0]
        lengths = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)  # [n, 1]
        unit = (values / np.maximum(lengths, _SMALLEST)).astype(np.float32)
        failures = {number: Failure(str(images[number]), reason) for number, reason in found.problems.items()}
        return EncodedImages(unit, failures)
