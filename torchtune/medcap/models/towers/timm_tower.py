"""Any timm model as a tower: ViT-like models return their tokens, convolutional networks their last feature map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.models.towers.base import Tower
from medcap.models.towers.hub import fetch, local_copy
from medcap.models.towers.source import ONLY_FILES, KnownPreprocess, TowerSource, first_file, note_pickle
from medcap.models.towers.tensor_files import open_tensor_files, read_json

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_CROP_MODES = {"center": "shortest", "squash": "squash"}
# Arguments of a model that a folder may set; others could make timm read files that the folder names.
_POOLING = ("global_pool", "fc_norm")


class TimmTower(Tower):
    """A timm model without its classifier.

    Patch tokens are ``forward_features`` without prefix tokens; the pooled vector is what the classifier would see.

    Args:
        spec: ``name`` with or without a pretrained tag, ``image_size`` or None for the model's own; ``pooling``, the
            model's arguments of that, only where they are not its own; ``layers``, only where later ones are left out.
        preprocess: preprocess of the same model.
    """

    def __init__(self, spec: dict[str, Any], preprocess: Preprocess) -> None:
        super().__init__(spec, preprocess)
        import timm

        options = {} if spec["image_size"] is None else {"img_size": spec["image_size"]}
        options |= spec.get("pooling", {})
        self.trunk = timm.create_model(spec["name"], pretrained=False, num_classes=0, **options)
        cut_trunk(self.trunk, spec.get("layers"))
        self.has_pooled = options.get("global_pool") != "" and "layers" not in spec  # "": timm's name for no pooling

    def encode_patches(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, T, D]``."""
        return features_to_tokens(self.trunk, self.trunk.forward_features(self._cast(images)))

    def encode_pooled(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, D]``.

        Raises:
            UserError: for a model that was saved without pooling.
        """
        if not self.has_pooled:
            reason = "is cut before its last layer" if "layers" in self.spec else "was saved without pooling"
            raise UserError(f"vision: this timm model {reason}; use a projector that takes patches")
        return self.trunk.forward_head(self.trunk.forward_features(self._cast(images)), pre_logits=True)


def features_to_tokens(trunk: nn.Module, features: Tensor) -> Tensor:
    """Return patch tokens from the output of a timm trunk's ``forward_features``.

    Args:
        trunk: says how many prefix tokens there are, or that a feature map is channels-last.
        features: ``[N, prefix + T, D]``, ``[N, D, h, w]`` or ``[N, h, w, D]``.

    Returns:
        ``[N, T, D]``.

    Raises:
        UserError: for anything else.
    """
    if isinstance(features, Tensor) and features.ndim == 3:
        return features[:, getattr(trunk, "num_prefix_tokens", 0) :]
    if isinstance(features, Tensor) and features.ndim == 4:
        if getattr(trunk, "output_fmt", "NCHW") == "NHWC":
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)
    raise UserError(f"vision: the timm model {type(trunk).__name__} gives neither tokens nor one feature map")


def trunk_layers(trunk: nn.Module) -> int | None:
    """Count the layers of a timm vision transformer; None for a model that has none to leave out."""
    blocks, norm = getattr(trunk, "blocks", None), getattr(trunk, "norm", None)
    # EfficientNets have blocks of another kind, and no norm after them.
    return len(blocks) if isinstance(blocks, nn.Sequential | nn.ModuleList) and isinstance(norm, nn.Module) else None


def cut_trunk(trunk: Any, layers: int | None) -> None:
    """Leave out the layers of a vision transformer after the first ``layers``, and the final norm; None keeps all."""
    if layers is not None:
        trunk.blocks, trunk.norm = trunk.blocks[:layers], nn.Identity()


def is_timm_name(name: str) -> bool:
    """Return whether timm has a model of this name, with or without a tag."""
    import timm

    return timm.is_model(name)


def timm_from_name(
    name: str, weights: bool, image_size: int | None = None, known: KnownPreprocess = ONLY_FILES
) -> TowerSource:
    """Return a model of timm's list.

    Args:
        name: "vit_small_patch16_224" or with a tag, "vit_small_patch16_224.augreg_in1k".
        weights: whether the weights are needed too; they come from the hub repository that timm names.
        image_size: another input size in pixels, only without weights.
        known: what is known of the preprocessing beside what timm says of the model.

    Raises:
        UserError: for an unknown name or tag.
    """
    from timm.models import get_pretrained_cfg

    if not is_timm_name(name):
        raise UserError(f"vision=timm:{name}: timm knows no model of this name")
    try:
        config = get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"vision=timm:{name}: {error}") from error
    settings = config.to_dict() if config is not None else {}
    spec = {"kind": "timm", "name": name, "image_size": image_size}
    source = _source(spec, settings, f"vision=timm:{name}", known)
    if weights:
        repository = settings.get("hf_hub_id")
        if not repository:
            raise UserError(f"vision=timm:{name} has no weights on the hub; random ones need vision.pretrained=False")
        folder = local_copy(repository) or fetch(repository, [], WEIGHT_FILES)
        _attach_weights(source, folder, settings)
    return source


def timm_from_folder(folder: Path, weights: bool, known: KnownPreprocess = ONLY_FILES) -> TowerSource:
    """Read timm's hub format: ``config.json`` with "architecture", and ``model.safetensors``.

    Args:
        folder: folder written by ``hf download`` or timm's ``save_for_hf``.
        weights: whether the weights are needed too.
        known: what is known of the preprocessing beside ``pretrained_cfg``.

    Raises:
        UserError: if a file is missing or names no timm model.
    """
    config = read_json(folder / "config.json")
    name = config.get("architecture")
    if not isinstance(name, str) or not is_timm_name(name):
        raise UserError(f"{folder / 'config.json'}: timm knows no architecture {name!r}")
    # Earlier releases of timm wrote the settings beside the architecture.
    settings = config.get("pretrained_cfg", config) or {}
    tagged = f"{name}.{settings.get('tag')}"
    built_with = config.get("model_args") or {}
    image_size = _other_size(name, built_with.get("img_size"))
    spec = {"kind": "timm", "name": _known_tag(tagged) or name, "image_size": image_size}
    pooling = {option: built_with[option] for option in _POOLING if option in built_with}
    if _pools_differently(name, pooling.get("global_pool")):
        spec["pooling"] = pooling
    source = _source(spec, settings, str(folder / "config.json"), known)
    if weights:
        _attach_weights(source, folder, settings)
    return source


def timm_from_hub(repository: str, weights: bool, known: KnownPreprocess = ONLY_FILES) -> TowerSource:
    """Return the same folder format through the hub's cache."""
    return timm_from_folder(fetch(repository, ["config.json"], WEIGHT_FILES if weights else ()), weights, known)


def _known_tag(name: str) -> str | None:
    from timm.models import get_pretrained_cfg

    try:
        return name if get_pretrained_cfg(name, allow_unregistered=False) is not None else None
    except RuntimeError:
        return None


def _other_size(name: str, built_with: int | list[int] | None) -> int | None:
    """Return the image size that a model was built with, if it differs from the architecture's default."""
    from timm.models import get_pretrained_cfg

    sizes = {built_with} if isinstance(built_with, int) else set(built_with or ())
    config = get_pretrained_cfg(name)
    usual = None if config is None else config.input_size[-1]
    return sizes.pop() if len(sizes) == 1 and sizes != {usual} else None


def _pools_differently(name: str, pooling: str | None) -> bool:
    import timm

    if pooling is None:
        return False
    with torch.device("meta"):
        return getattr(timm.create_model(name, pretrained=False), "global_pool", pooling) != pooling


def _attach_weights(source: TowerSource, folder: Path, settings: dict[str, Any]) -> None:
    path = first_file(folder, WEIGHT_FILES)
    if path is None:
        raise UserError(f"{folder} holds no {WEIGHT_FILES[0]}: download it into this folder")
    classifier = settings.get("classifier") or ()
    parts = tuple(f"{part}." for part in ([classifier] if isinstance(classifier, str) else classifier))
    source.weights = open_tensor_files(path).renamed(
        lambda name: None if name.startswith(parts or ("\0",)) else f"trunk.{name}"
    )
    source.location = path
    source.notices += note_pickle(path)


def _source(spec: dict[str, Any], settings: dict[str, Any], location: str, known: KnownPreprocess) -> TowerSource:
    """Return the tower and its preprocessing, which ``settings`` describe at ``location``."""
    try:
        described = _preprocess(settings, spec["image_size"])
    except UserError as error:
        raise UserError(f"{location}: {error}") from error
    size = _input_size(settings) if spec["image_size"] is None else spec["image_size"]
    missing = "a file with mean and std in its pretrained_cfg"
    source = TowerSource(spec, known.complete(described, size, location, missing))
    if (settings.get("crop_pct") or 1) != 1:
        source.notices.append(
            f"{location}: the crop of timm (crop_pct={settings['crop_pct']}) is left out: the border of a medical image"
            " can hold the finding"
        )
    return source


def _input_size(settings: dict[str, Any]) -> int:
    shape = (3, 224, 224) if settings.get("input_size") is None else settings["input_size"]
    if not isinstance(shape, list | tuple) or len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise UserError(f"input_size={shape!r} cannot be used; only [3, N, N] can")
    return shape[1]


def _preprocess(settings: dict[str, Any], image_size: int | None) -> Preprocess | None:
    """Return what the settings describe; None if they leave out the mean or the deviation."""
    given = {key: value for key, value in settings.items() if value is not None}
    size = _input_size(given)
    mode = given.get("crop_mode", "center")
    if mode not in _CROP_MODES:
        raise UserError(f"crop_mode={mode!r} is not done here; only {' and '.join(_CROP_MODES)} are")
    if "mean" not in given or "std" not in given:
        return None
    return Preprocess(
        size if image_size is None else image_size,
        given["mean"],
        given["std"],
        given.get("interpolation", "bicubic"),
        _CROP_MODES[mode],
    )
