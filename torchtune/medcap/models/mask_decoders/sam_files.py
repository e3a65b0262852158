"""Folders of SAM, MedSAM and SAM 2.1 in transformers' format, checked before any weight is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.models.towers.hugging_face_tower import WEIGHT_FILES
from medcap.models.towers.image_processor import INTERPOLATIONS, PREPROCESS_FILES, normalisation
from medcap.models.towers.source import first_file
from medcap.models.towers.tensor_files import TensorFiles, open_tensor_files, read_json

# model_type of config.json -> whether it is a SAM 2. Folders of SAM 2.1 say that they are its video model, whose parts
# for single images are the same.
_MODEL_TYPES = {"sam": False, "sam2": True, "sam2_video": True}
_PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
# The parts of a SAM 2 that follow objects through a video.
_VIDEO = ("memory_", "mask_downsample", "object_pointer", "occlusion_", "no_object_pointer", "no_memory_positional")
_SAME = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
_WHAT = "the SAM model"
_MOST_SHOWN = 16384  # side of a picture in pixels


@dataclass(frozen=True)
class SamDescription:
    """What rebuilds a SAM without its weights, as JSON holds it.

    Attributes:
        model_type: ``sam`` or ``sam2``.
        parts: fields of transformers' configurations by part: ``vision_config``, ``prompt_encoder_config`` and
            ``mask_decoder_config``.
        preprocess: how an image becomes its picture.
    """

    model_type: str
    parts: dict[str, Any]
    preprocess: Preprocess

    @property
    def is_sam2(self) -> bool:
        """Whether it has SAM 2's features of high resolution and its object score."""
        return self.model_type == "sam2"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"model_type": self.model_type, **self.parts, "preprocess": self.preprocess.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamDescription:
        """Return the inverse of :meth:`to_dict`."""
        parts = {name: values[name] for name in _PARTS}
        return cls(values["model_type"], parts, Preprocess.from_dict(values["preprocess"]))


@dataclass(frozen=True)
class SamFolder:
    """A folder whose weights are not read yet.

    Attributes:
        description: rebuilds the model.
        tensors: its tensors under the names of transformers' model.
        weights_file: file that holds them.
    """

    description: SamDescription
    tensors: TensorFiles
    weights_file: Path

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Compare names and shapes with those of the model.

        Args:
            expected: the model's ``state_dict``.

        Raises:
            UserError: naming a tensor that is missing, of another shape, or without a place.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        self.tensors.check(shapes, self.weights_file, _WHAT)


def open_sam_folder(path: str | Path, key: str) -> SamFolder:
    """Read the descriptions of a folder and the header of its weights.

    Args:
        path: folder with config.json, model.safetensors and preprocessor_config.json.
        key: key of the configuration that names it, for messages.

    Raises:
        UserError: if a file is missing, or the model is of another kind or in another format.
    """
    folder = Path(path)
    if folder.is_file():
        raise UserError(f"{key}={path}: {_no_folder_format(folder)}")
    if not folder.is_dir():
        raise UserError(f"{key}={path}: there is no such folder; bring a SAM in transformers' format into it")
    if not (folder / "config.json").is_file():
        files = sorted(file for suffix in ("*.pth", "*.pt") for file in folder.glob(suffix))
        reason = _no_folder_format(files[0]) if files else "config.json is missing in it: download the whole folder"
        raise UserError(f"{key}={path}: {reason}")
    config = read_json(folder / "config.json")
    model_type = str(config.get("model_type"))
    if model_type not in _MODEL_TYPES:
        more = "; SAM 3 is not read" if model_type.startswith("sam3") else ""
        raise UserError(f"{key}={path}: model_type {model_type!r} is no {', '.join(_MODEL_TYPES)}{more}")
    missing = [name for name in _PARTS if not isinstance(config.get(name), dict)]
    if missing:
        raise UserError(f"{folder / 'config.json'}: {missing[0]} is missing or damaged; download it again")
    weights = first_file(folder, WEIGHT_FILES)
    if weights is None:
        raise UserError(f"{key}={path}: {WEIGHT_FILES[0]} is missing: download it into the same folder")
    parts = {name: dict(config[name]) for name in _PARTS}
    size = parts["prompt_encoder_config"].get("image_size", 1024)
    preprocess = _read_preprocess(folder, size, key)
    description = SamDescription("sam2" if _MODEL_TYPES[model_type] else "sam", parts, preprocess)
    return SamFolder(description, _named(open_tensor_files(weights), weights, description.is_sam2), weights)


def _no_folder_format(file: Path) -> str:
    return (
        f"{file.name} is one file, and what is read here is transformers' folder (config.json, model.safetensors,"
        " preprocessor_config.json); convert a checkpoint of Meta's layout by transformers' own script; SAM-Med2D's"
        " adapter layers have no place in that format, so its checkpoint cannot be read"
    )


def _named(tensors: TensorFiles, file: Path, is_sam2: bool) -> TensorFiles:
    """Leave out what single images do not need, and give what is stored once under both its names."""
    adapters = sorted(name for name in tensors.names if "adapter" in name.lower())
    if adapters:
        raise UserError(
            f"{file}: tensor {adapters[0]} is an adapter, as SAM-Med2D has them: transformers' SAM has no place for it,"
            " so this checkpoint cannot be read; use SAM, MedSAM or SAM 2.1"
        )
    named = {name: tensors[name] for name in tensors.names if not (is_sam2 and name.startswith(_VIDEO))}
    kept = next((named[name] for name in _SAME if name in named), None)
    return TensorFiles(named if kept is None else {**dict.fromkeys(_SAME, kept), **named})


def _read_preprocess(folder: Path, image_size: Any, key: str) -> Preprocess:
    path = first_file(folder, PREPROCESS_FILES)
    if path is None:
        raise UserError(f"{key}={folder}: {PREPROCESS_FILES[0]} is missing, which says how images become its pictures")
    settings = read_json(path)
    settings = settings.get("image_processor", settings)
    if not isinstance(settings, dict):
        raise UserError(f"{path}: 'image_processor' is damaged; download it again")
    settings = {name: value for name, value in settings.items() if value is not None}
    if not isinstance(image_size, int) or not 0 < image_size <= _MOST_SHOWN:
        raise UserError(f"{folder / 'config.json'}: image_size={image_size!r} must be one number of pixels")
    size, padded = settings.get("size", {}), settings.get("pad_size")
    edges = list(size.values()) if isinstance(size, dict) else [size]
    edges += padded.values() if isinstance(padded, dict) else []
    if not edges or any(edge != image_size for edge in edges) or not settings.get("do_resize", True):
        sides = ", ".join(sorted({str(edge) for edge in edges})) or "no"
        raise UserError(
            f"{path}: it makes pictures of [{sides}] pixels, but the model takes {image_size} x {image_size}"
        )
    by_long_side = isinstance(size, dict) and "longest_edge" in size
    if by_long_side and not settings.get("do_pad", True):
        raise UserError(f"{path}: do_pad=false with size.longest_edge gives pictures that are not square")
    resample = settings.get("resample", 2)
    if not isinstance(resample, int) or resample not in INTERPOLATIONS:
        raise UserError(f"{path}: resample={resample} is neither 2 (bilinear) nor 3 (bicubic)")
    mode = "pad_corner" if by_long_side else "squash"
    try:
        mean, std = normalisation(settings, Preprocess(image_size))
        return Preprocess(image_size, mean, std, INTERPOLATIONS[resample], mode)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def sha256_of(tensors: Mapping[str, Tensor], description: SamDescription) -> str:
    """Return a hash of a model: its description, and the names, dtypes, shapes and values of its tensors."""
    digest = hashlib.sha256(json.dumps(description.to_dict(), sort_keys=True, default=repr).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
