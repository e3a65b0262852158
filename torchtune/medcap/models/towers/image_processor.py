"""Image processors of transformers, as ``preprocessor_config.json`` describes them -> ``Preprocess``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcap.errors import UserError
from medcap.models.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Channels,
    Preprocess,
    channel_values,
)
from medcap.models.towers.source import ONLY_FILES, KnownPreprocess, first_file
from medcap.models.towers.tensor_files import read_json

PREPROCESS_FILES = ("preprocessor_config.json", "processor_config.json")
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
_EIGHT_BITS = 255
# Steps that are followed, or that change nothing: pictures are RGB before they come here.
_FOLLOWED = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
# Settings of other processors that change the pixels but are not steps, each with the value that changes nothing.
_OTHERS: dict[str, tuple[Any, ...]] = {
    "crop_pct": (1, None),
    "offset": (False, None),
    "size_divisor": (None,),
    "image_grid_pinpoints": (None, []),
    "crop_border_pixels": (0, None),
}


def read_preprocess(
    folder: Path, model_type: str, image_size: int | None, known: KnownPreprocess = ONLY_FILES
) -> tuple[Preprocess, list[str]]:
    """Read the preprocessing of a folder's image processor.

    Args:
        folder: folder with ``preprocessor_config.json`` or ``processor_config.json``.
        model_type: model type of the vision encoder, such as clip_vision_model.
        image_size: the only image size that the model takes, in pixels; None if it takes any.
        known: what is known beside the file.

    Returns:
        The preprocessing, and notices.

    Raises:
        UserError: if there is no such file, or it describes another size, or something that ``Preprocess`` cannot do.
    """
    path = first_file(folder, PREPROCESS_FILES)
    if path is None:
        return known.complete(None, image_size, folder, PREPROCESS_FILES[0]), []
    settings = read_json(path)
    settings = settings.get("image_processor", settings)
    try:
        described, notices = _described(settings, model_type, image_size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return known.complete(described, image_size, path, ""), [f"{path}: {notice}" for notice in notices]


def default_preprocess(model_type: str, image_size: int) -> Preprocess:
    """Return the settings that transformers' image processor of this model type has where its file leaves them out."""
    if model_type == "siglip_vision_model":
        return Preprocess(image_size, HALF, HALF, resize_mode="squash")
    if model_type.startswith("dinov3"):
        return Preprocess(image_size, IMAGENET_MEAN, IMAGENET_STD, "bilinear", "squash")
    if model_type.startswith("convnext"):
        return Preprocess(image_size, IMAGENET_MEAN, IMAGENET_STD)
    return Preprocess(image_size, CLIP_MEAN, CLIP_STD)


def _described(settings: Mapping[str, Any], model_type: str, image_size: int | None) -> tuple[Preprocess, list[str]]:
    settings = {key: value for key, value in settings.items() if value is not None}
    default = default_preprocess(model_type, 1)
    notices = []
    named = str(settings.get("image_processor_type", settings.get("feature_extractor_type", "")))
    if model_type.startswith("convnext") and (named.startswith("ConvNext") or not named):
        settings, notices = _without_crop_pct(settings)
    elif image_size is None:
        settings, notices = _without_margin(settings)
    _check_steps(settings)
    if image_size is None:
        image_size = _own_size(settings)
    resample = settings.get("resample", {"bilinear": 2, "bicubic": 3}[default.interpolation])
    if resample not in INTERPOLATIONS:
        raise UserError(f"resample={resample} is neither 2 (bilinear) nor 3 (bicubic)")
    mode = _resize_mode(settings, default.resize_mode, image_size)
    mean, std = normalisation(settings, default)
    return Preprocess(image_size, mean, std, INTERPOLATIONS[resample], mode), notices


def _without_crop_pct(settings: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Say in other words what ConvNeXt's processor does: it squashes from 384 pixels on, and crops below that."""
    edge = _edge(settings.get("size", {"shortest_edge": 384}))
    fraction = settings.pop("crop_pct", 224 / 256)
    if not isinstance(edge, int) or edge >= 384:
        return {**settings, "size": {"height": edge, "width": edge}}, []
    settings = {**settings, "size": {"shortest_edge": edge}, "do_center_crop": True, "crop_size": edge}
    return settings, [] if fraction == 1 else [_left_out(f"crop_pct={fraction:.3g}")]


def _without_margin(settings: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Leave out a border that is cut off because the image is resized to more than the crop."""
    size, crop = settings.get("size"), settings.get("crop_size")
    if not settings.get("do_center_crop", crop is not None) or crop is None or not isinstance(size, Mapping):
        return settings, []
    edge, kept = _edge(size), _edge(crop)
    if "shortest_edge" not in size or not isinstance(edge, int) or not isinstance(kept, int) or not 0 < kept < edge:
        return settings, []
    return {**settings, "size": {"shortest_edge": kept}}, [_left_out(f"{kept} of {edge} pixels")]


def _left_out(what: str) -> str:
    return f"the crop of the processor ({what}) is left out: the border of a medical image can hold the finding"


def _own_size(settings: Mapping[str, Any]) -> int:
    """Return the size of the images that a processor makes, of a model that takes any."""
    name = "crop_size" if settings.get("do_center_crop") and "crop_size" in settings else "size"
    size = _edge(settings.get(name))
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise UserError(f"{name}={settings.get(name)!r} must be one size in pixels")
    return size


def _check_steps(settings: Mapping[str, Any]) -> None:
    """Refuse the steps that ``Preprocess`` cannot do."""
    for key, value in settings.items():
        if key.startswith("do_") and not isinstance(value, bool):
            raise UserError(f"{key}={value!r} must be true or false")
        if (key.startswith("do_") and key not in _FOLLOWED and value) or value not in _OTHERS.get(key, (value,)):
            raise UserError(f"{key}={value!r} is not done here: the encoder would see other pixels than it learnt from")
    if not settings.get("do_resize", True):
        raise UserError("do_resize=False is not done here: every image is resized to the encoder's size")


def _resize_mode(settings: Mapping[str, Any], usual: str, image_size: int) -> str:
    """Return ``shortest`` or ``squash``; refuse a result of another size than the model's."""
    size = settings.get("size", {"shortest_edge": image_size} if usual == "shortest" else image_size)
    crops = settings.get("do_center_crop", usual == "shortest")
    sizes = {_edge(size), _edge(settings.get("crop_size", image_size)) if crops else image_size}
    if sizes != {image_size}:
        raise UserError(f"image size {sorted(sizes, key=str)} differs from the model's {image_size}; make them equal")
    if isinstance(size, Mapping):
        square = "shortest_edge" not in size
    else:
        square = settings.get("default_to_square", usual == "squash")
    if not square and not crops:
        raise UserError("do_center_crop=False with size.shortest_edge gives images that are not square")
    return "squash" if square else "shortest"


def _edge(size: Any) -> Any:
    """Return the edge length of 336, {"shortest_edge": 336} or {"height": 336, "width": 336}; -1 if there is none."""
    if isinstance(size, Mapping):
        edges = {str(value): value for value in size.values() if value is not None}
        known = set(size) <= {"shortest_edge"} or set(size) <= {"height", "width"}
        return next(iter(edges.values())) if known and len(edges) == 1 else -1
    return size


def normalisation(settings: Mapping[str, Any], default: Preprocess) -> tuple[Channels, Channels]:
    """Return mean and deviation on the scale 0 to 1, whatever scale the processor has.

    Args:
        settings: of the processor.
        default: what counts where it says nothing.

    Raises:
        UserError: if a value is impossible.
    """
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if settings.get("do_normalize", True):
        mean = channel_values("image_mean", settings.get("image_mean", default.mean))
        std = channel_values("image_std", settings.get("image_std", default.std))
    scale = 1.0
    if not settings.get("do_rescale", True):
        scale = float(_EIGHT_BITS)
    elif "rescale_factor" in settings:
        factor = settings["rescale_factor"]
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
            raise UserError(f"rescale_factor={factor!r} must be a number above 0")
        scale = factor * _EIGHT_BITS
    if abs(scale - 1) < 1e-6:  # 1 / 255, or its digits
        return mean, std
    return _divided(mean, scale), _divided(std, scale)


def _divided(values: Channels, scale: float) -> Channels:
    red, green, blue = values
    return red / scale, green / scale, blue / scale
