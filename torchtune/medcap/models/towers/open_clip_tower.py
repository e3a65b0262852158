"""The vision half of an open_clip model, from its folder format or by name; the text half is never built."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.models.towers.base import Tower
from medcap.models.towers.hub import fetch, local_copy
from medcap.models.towers.source import ONLY_FILES, KnownPreprocess, TowerSource, first_file, note_pickle
from medcap.models.towers.tensor_files import open_tensor_files, read_json
from medcap.models.towers.timm_tower import cut_trunk, features_to_tokens
from medcap.modules.quick_gelu import use_lean_quick_gelu

CONFIG_FILE = "open_clip_config.json"
_PREPROCESS_KEYS = ("mode", "mean", "std", "interpolation", "resize_mode")
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class OpenClipTower(Tower):
    """open_clip's own vision transformer or ResNet.

    Patch tokens are the last block's output before the final norm, without the class token, as LLaVA-style models
    read them; the pooled vector is the image embedding before normalisation.

    Args:
        spec: ``embed_dim``, ``vision_cfg`` and ``quick_gelu`` of an open_clip configuration; ``layers``, only where
            later ones are left out.
        preprocess: preprocess of the same model.
    """

    def __init__(self, spec: dict[str, Any], preprocess: Preprocess) -> None:
        super().__init__(spec, preprocess)
        self.visual = _build_visual(spec)
        use_lean_quick_gelu(self.visual)
        if "layers" in spec:
            self.visual.transformer.resblocks = self.visual.transformer.resblocks[: spec["layers"]]
        self.has_pooled = getattr(self.visual, "pool_type", "tok") != "none"

    def encode_patches(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, T, D]``."""
        found = self.visual.forward_intermediates(self._cast(images), indices=1, intermediates_only=True)
        return found["image_intermediates"][-1].flatten(2).transpose(1, 2)  # [N, D, h, w] -> [N, T, D]

    def encode_pooled(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, embed_dim]``."""
        output = self.visual(self._cast(images))
        return output[0] if isinstance(output, tuple) else output


class OpenClipTimmTower(Tower):
    """open_clip around a timm trunk, as BiomedCLIP and open_clip's SigLIP models are.

    Patch tokens are the trunk's features after its final norm, without prefix tokens. State keys are ``trunk.*`` and
    ``head.*``: those of open_clip's ``model.visual``.

    Args:
        spec: ``embed_dim`` and ``vision_cfg`` of an open_clip configuration; ``layers``, only where later ones are
            left out: then there is no final norm and no pooled vector.
        preprocess: preprocess of the same model.
    """

    def __init__(self, spec: dict[str, Any], preprocess: Preprocess) -> None:
        super().__init__(spec, preprocess)
        visual = _build_visual(spec)
        self.trunk = visual.trunk
        self.head = visual.head
        self.has_pooled = "layers" not in spec
        cut_trunk(self.trunk, spec.get("layers"))

    def encode_patches(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, T, D]``."""
        return features_to_tokens(self.trunk, self.trunk.forward_features(self._cast(images)))

    def encode_pooled(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, embed_dim]``.

        Raises:
            UserError: for a tower that is cut before its last layer.
        """
        if not self.has_pooled:
            raise UserError("vision: a tower that is cut has no pooled vector; use a projector that takes patches")
        return self.head(self.trunk(self._cast(images)))


def build_open_clip(spec: dict[str, Any], preprocess: Preprocess) -> Tower:
    """Return the class that fits the specification."""
    kind = OpenClipTimmTower if spec["vision_cfg"].get("timm_model_name") else OpenClipTower
    return kind(spec, preprocess)


def open_clip_spec(model_config: Mapping[str, Any], quick_gelu: bool = False) -> dict[str, Any]:
    """Specification of the vision half.

    Args:
        model_config: open_clip's ``model_cfg``.
        quick_gelu: whether the weights were trained with it although the configuration does not say so.
    """
    vision = json.loads(json.dumps(model_config["vision_cfg"]))
    vision.pop("timm_model_pretrained", None)
    vision.pop("patch_dropout", None)  # the number of patch tokens must not change in training
    quick_gelu = bool(quick_gelu or model_config.get("quick_gelu", False))
    return {
        "kind": "open_clip",
        "embed_dim": model_config["embed_dim"],
        "vision_cfg": vision,
        "quick_gelu": quick_gelu,
    }


def canonical_open_clip(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the specification with every default filled in, for comparison."""
    from open_clip.model import CLIPVisionCfg

    return {**spec, "vision_cfg": dataclasses.asdict(CLIPVisionCfg(**spec["vision_cfg"]))}


def open_clip_from_folder(folder: Path, weights: bool, known: KnownPreprocess = ONLY_FILES) -> TowerSource:
    """Read open_clip's folder format: ``open_clip_config.json`` and ``open_clip_model.safetensors``.

    Args:
        folder: folder written by ``hf download``.
        weights: whether the weights are needed too.
        known: what is known of the preprocessing beside ``preprocess_cfg``.

    Raises:
        UserError: if a file is missing or says something impossible.
    """
    config = read_json(folder / CONFIG_FILE)
    model = config.get("model_cfg")
    if not isinstance(model, dict) or not isinstance(model.get("vision_cfg"), dict) or "embed_dim" not in model:
        raise UserError(f"{folder / CONFIG_FILE}: model_cfg with embed_dim and vision_cfg is missing")
    spec = open_clip_spec(model)
    source = TowerSource(spec, _preprocess(spec, config.get("preprocess_cfg"), folder / CONFIG_FILE, known))
    if weights:
        path = first_file(folder, WEIGHT_FILES)
        if path is None:
            raise UserError(f"{folder} holds {CONFIG_FILE} but no {WEIGHT_FILES[0]}: download it into the same folder")
        _attach_weights(source, path)
    return source


def open_clip_from_hub(repository: str, weights: bool, known: KnownPreprocess = ONLY_FILES) -> TowerSource:
    """Return the same folder format through the hub's cache."""
    return open_clip_from_folder(fetch(repository, [CONFIG_FILE], WEIGHT_FILES if weights else ()), weights, known)


def open_clip_from_name(name: str, weights: bool, known: KnownPreprocess = ONLY_FILES) -> TowerSource:
    """Return a model of open_clip's own list.

    Args:
        name: "ViT-B-16:openai", or "ViT-B-16" for the first tag that open_clip lists.
        weights: whether the weights are needed too; they come from the tag's hub repository.
        known: what is known of the preprocessing beside what open_clip says of the tag.

    Raises:
        UserError: for an unknown name or tag.
    """
    import open_clip

    model_name, _, tag = name.partition(":")
    model = open_clip.get_model_config(model_name)
    if model is None:
        raise UserError(f"vision=open_clip:{name}: open_clip knows no model {model_name}")
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if tag and tag not in tags:
        raise UserError(f"vision=open_clip:{name}: {model_name} has the tags {', '.join(tags) or 'none'}, not {tag}")
    tag = tag or next(iter(tags), "")
    pretrained = open_clip.get_pretrained_cfg(model_name, tag) if tag else {}
    spec = open_clip_spec(model, bool(pretrained.get("quick_gelu")))
    source = TowerSource(spec, _preprocess(spec, pretrained, Path(f"open_clip:{name}"), known))
    if weights:
        owner, _, rest = pretrained.get("hf_hub", "").partition("/")
        repository, _, file = rest.partition("/")
        if not repository:
            raise UserError(f"vision=open_clip:{name} has no weights on the hub; give a folder with {CONFIG_FILE}")
        folder = local_copy(repository)
        if folder is not None and (folder / CONFIG_FILE).is_file():
            return open_clip_from_folder(folder, weights=True, known=known)
        files = (file,) if file else WEIGHT_FILES
        folder = fetch(f"{owner}/{repository}", [], files)
        path = first_file(folder, files)
        assert path is not None, "fetch gives a folder with one of these files"
        _attach_weights(source, path)
    return source


def _attach_weights(source: TowerSource, path: Path) -> None:
    visual = open_tensor_files(path).under("visual.")
    if not visual.names:
        raise UserError(f"{path} holds no tensor named visual.*, so it is no open_clip model")
    timm = source.spec["vision_cfg"].get("timm_model_name")
    source.weights = visual if timm else visual.renamed(lambda name: f"visual.{name}")
    source.location = path
    source.notices += note_pickle(path)


def _preprocess(
    spec: Mapping[str, Any], settings: Mapping[str, Any] | None, location: Path, known: KnownPreprocess
) -> Preprocess:
    """open_clip resizes to the model's size, whatever ``preprocess_cfg`` says of it."""
    size: Any = spec["vision_cfg"].get("image_size", 224)
    if isinstance(size, list):
        size = size[0] if len(set(size)) == 1 else size
    if not settings:
        # open_clip itself would take CLIP's preprocessing without a word.
        return known.complete(None, size, location, "a file with preprocess_cfg in it")
    # None is absent, as in open_clip; 0 is a number.
    given = {key: settings[key] for key in _PREPROCESS_KEYS if settings.get(key) is not None}
    try:
        if given.pop("mode", "RGB") != "RGB":
            raise UserError(f"mode={settings['mode']!r}: only RGB images can be used")
        described = Preprocess.from_dict({"image_size": size, **given})
    except UserError as error:
        raise UserError(f"{location}: {error}") from error
    return known.complete(described, size, location, "")


def _build_visual(spec: Mapping[str, Any]) -> Any:
    # open_clip has no public function that builds one half of a model.
    from open_clip.model import _build_vision_tower

    vision = {**spec["vision_cfg"], "timm_model_pretrained": False, "patch_dropout": 0.0}
    return _build_vision_tower(spec["embed_dim"], vision, spec.get("quick_gelu", False))
