"""From what ``vision=`` says to a tower: names, folders, hub repositories, models of open_clip and timm."""

from __future__ import annotations

import copy
import difflib
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.models.towers.base import Tower
from medcap.models.towers.hub import check_typed, fetch, local_copy
from medcap.models.towers.multi_scale import MultiScaleTower, multi_scale_source
from medcap.models.towers.named_towers import NAMED_TOWERS
from medcap.models.towers.select_layer import cut_layers
from medcap.models.towers.source import KnownPreprocess, TowerSource, first_file
from medcap.models.towers.tensor_files import read_json


@dataclass(frozen=True)
class TowerKind:
    """A class of towers; its module is imported only when such a tower is described or built.

    Attributes:
        module: module in this folder.
        build: the class or function in it that is called with specification and preprocessing.
        spec: the function in it that makes both from the options of ``vision``, for a kind that is named in ``vision``
            itself and starts with random weights; None for a kind whose files say what it is.
    """

    module: str
    build: str
    spec: str | None = None

    def find(self, name: str) -> Callable[..., Any]:
        """Import one of its functions."""
        return getattr(importlib.import_module(f"medcap.models.towers.{self.module}"), name)


# Key: ``spec["kind"]``. A new kind of tower is a file and a line here.
KINDS = {
    "tiny": TowerKind("tiny_tower", "TinyTower", "tiny_spec"),
    "open_clip": TowerKind("open_clip_tower", "build_open_clip"),
    "timm": TowerKind("timm_tower", "TimmTower"),
    "hugging_face": TowerKind("hugging_face_tower", "HuggingFaceTower"),
    "transformers": TowerKind("transformers_tower", "TransformersTower"),
}
_FRESH = tuple(name for name, kind in KINDS.items() if kind.spec is not None)


def build_tower(spec: dict[str, Any], preprocess: Preprocess) -> Tower:
    """Build a tower with random initial weights on the current default device.

    Args:
        spec: spec as ``Tower.spec``; ``spec["kind"]`` chooses the class.
        preprocess: preprocess as ``Tower.preprocess``.

    Raises:
        UserError: if there is no such architecture.
    """
    if "scales" in spec:
        return MultiScaleTower.around(spec, preprocess, build_tower)
    kind = spec.get("kind")
    if kind not in KINDS:
        raise UserError(f"vision: unknown kind of tower {kind!r}; this version knows {', '.join(KINDS)}")
    build = KINDS[kind].find(KINDS[kind].build)
    try:
        return build(spec, preprocess)
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"vision: the {kind} tower cannot be built: {reason}") from error


def same_architecture(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return whether two specifications mean the same tower."""
    return _canonical(first) == _canonical(second)


def resolve_tower(vision: str | Mapping[str, Any], weights: bool = True) -> TowerSource:
    """Find the tower that ``vision`` names; nothing is built, and of weight files only the headers are read.

    Args:
        vision: a name of ``NAMED_TOWERS``, or tiny; a folder of open_clip's, Hugging Face's or timm's format; a hub
            repository "owner/name"; "open_clip:NAME[:TAG]", "timm:NAME" or only such a name. Or a mapping with
            ``name`` (one of these), ``pretrained`` (False for random initial weights), ``select_layer`` (which hidden
            state the patch tokens are: -1 the last layer's, -2 the one before; ``layer`` is its former name) and
            ``scales`` (the image at several sizes, see ``multi_scale``), ``preprocess`` (fields of ``Preprocess``, in
            place of those in the tower's files) and further options of the tower, such as ``image_size``.
        weights: False if only the architecture is needed; then nothing that is known already is downloaded.

    Returns:
        The tower's description, with weights unless they are not needed or start random.

    Raises:
        UserError: if there is no such tower, or its files are missing or cannot be downloaded.
    """
    options = dict(vision) if isinstance(vision, Mapping) else {"name": vision}
    name, pretrained = options.pop("name", None), options.pop("pretrained", None)
    if not isinstance(name, str) or not name:
        raise UserError("vision.name is missing: give a tower, such as biomedclip, siglip, clip, tiny or a folder")
    given = options.pop("preprocess", None) or {}
    if not isinstance(given, Mapping):
        raise UserError(f"vision.preprocess={given!r} must be fields and their values, such as {{mean: 0.5, std: 0.5}}")
    scales = options.pop("scales", None)
    if pretrained not in (None, True, False):
        raise UserError(f"vision.pretrained={pretrained!r} must be true or false")
    layer = options.pop("select_layer", options.pop("layer", -1))
    if not isinstance(layer, int) or isinstance(layer, bool):
        raise UserError(
            f"vision.select_layer={layer!r} must be a whole number: -1 for the last layer, -2 for the one before"
        )
    known = KnownPreprocess(dict(given), has_keys=True)
    return multi_scale_source(cut_layers(_resolve(name, options, pretrained, weights, known), layer), scales)


def _resolve(
    name: str, options: Mapping[str, Any], pretrained: bool | None, weights: bool, known: KnownPreprocess
) -> TowerSource:
    if name in _FRESH:
        source = _resolve_fresh(name, options, pretrained)
        size = source.preprocess.image_size
        source.preprocess = known.complete(source.preprocess, size, f"vision={name}", "")
        return source
    if options and (pretrained is not False or not name.startswith("timm:") or set(options) != {"image_size"}):
        raise UserError(
            f"unknown key vision.{next(iter(options))}: {name} takes name, pretrained, select_layer, scales,"
            " preprocess and tiles only (tiny also its sizes, timm:NAME with pretrained=false also image_size)"
        )
    return _find(name, options, known)(weights and pretrained is not False)


def _resolve_fresh(name: str, options: Mapping[str, Any], pretrained: bool | None) -> TowerSource:
    if pretrained:
        raise UserError(
            f"vision.pretrained: the {name} tower has no pretrained weights; give vision_checkpoint instead"
        )
    return TowerSource(*KINDS[name].find(str(KINDS[name].spec))(options))


def _find(name: str, options: Mapping[str, Any], known: KnownPreprocess) -> Callable[[bool], TowerSource]:
    """Return the function that describes the tower; its argument says whether weights are needed."""
    from medcap.models.towers.open_clip_tower import open_clip_from_name
    from medcap.models.towers.timm_tower import timm_from_name

    if name in NAMED_TOWERS:
        return lambda weights: _from_named(name, weights, known)
    if Path(name).is_dir():
        return lambda weights: _from_folder(Path(name), weights, known)
    if name.startswith("open_clip:"):
        return lambda weights: open_clip_from_name(name.removeprefix("open_clip:"), weights, known)
    if name.startswith("timm:"):
        size = options.get("image_size")
        return lambda weights: timm_from_name(name.removeprefix("timm:"), weights, size, known)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"vision={name}: there is no such folder")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return lambda weights: _from_hub(name, weights, known)
    return _find_bare(name, known)


def _find_bare(name: str, known_preprocess: KnownPreprocess) -> Callable[[bool], TowerSource]:
    import open_clip

    from medcap.models.towers.open_clip_tower import open_clip_from_name
    from medcap.models.towers.timm_tower import is_timm_name, timm_from_name

    known = open_clip.list_models()
    base = name.partition(":")[0]
    # Some timm names are also open_clip configurations, but of models without trained weights.
    if base in known and (open_clip.list_pretrained_tags_by_model(base) or not is_timm_name(base)):
        return lambda weights: open_clip_from_name(name, weights, known_preprocess)
    if is_timm_name(name):
        return lambda weights: timm_from_name(name, weights, known=known_preprocess)
    near = difflib.get_close_matches(name, [*NAMED_TOWERS, *_FRESH, *known], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(
        f"vision={name} is unknown{hint}: give {', '.join([*NAMED_TOWERS, *_FRESH])}, a folder, owner/name on the "
        "hub, open_clip:NAME or timm:NAME"
    )


def _from_named(name: str, weights: bool, known: KnownPreprocess) -> TowerSource:
    tower = NAMED_TOWERS[name]
    if weights:
        return _from_hub(tower.repository, weights, known)
    size = None if tower.any_size else tower.preprocess.image_size
    preprocess = known.complete(tower.preprocess, size, f"vision={name}", "")
    return TowerSource(copy.deepcopy(tower.spec), preprocess)


def _from_folder(folder: Path, weights: bool, known: KnownPreprocess) -> TowerSource:
    from medcap.models.towers.hugging_face_tower import hugging_face_from_folder
    from medcap.models.towers.open_clip_tower import CONFIG_FILE, WEIGHT_FILES, open_clip_from_folder
    from medcap.models.towers.timm_tower import timm_from_folder

    config = folder / "config.json"
    # Some folders hold one model in two formats: the one whose weights are there counts.
    if (folder / CONFIG_FILE).is_file() and (first_file(folder, WEIGHT_FILES) or not weights or not config.is_file()):
        return open_clip_from_folder(folder, weights, known)
    if not config.is_file():
        raise UserError(f"vision={folder}: the folder holds no {CONFIG_FILE}, config.json or vision.json")
    read = timm_from_folder if _is_timm_config(config) else hugging_face_from_folder
    return read(folder, weights, known)


def _from_hub(repository: str, weights: bool, known: KnownPreprocess) -> TowerSource:
    from medcap.models.towers.hugging_face_tower import hugging_face_from_hub
    from medcap.models.towers.open_clip_tower import CONFIG_FILE, open_clip_from_hub
    from medcap.models.towers.timm_tower import timm_from_hub

    named = next((tower for tower in NAMED_TOWERS.values() if tower.repository == repository), None)
    if named is not None:
        known = replace(known, usual=named.preprocess)
    folder = local_copy(repository)
    if folder is not None:
        return _from_folder(folder, weights, known)
    if named is not None:
        from_hub = open_clip_from_hub if named.spec["kind"] == "open_clip" else hugging_face_from_hub
        return from_hub(repository, weights, known)
    configs = (CONFIG_FILE, "config.json")
    check_typed(repository, configs)
    config = first_file(fetch(repository, [], configs), configs)
    if config is not None and config.name == CONFIG_FILE:
        return open_clip_from_hub(repository, weights, known)
    is_timm = config is not None and _is_timm_config(config)
    return (timm_from_hub if is_timm else hugging_face_from_hub)(repository, weights, known)


def _is_timm_config(path: Path) -> bool:
    return "architecture" in read_json(path)


def _canonical(spec: dict[str, Any]) -> dict[str, Any]:
    if spec.get("kind") == "open_clip":
        from medcap.models.towers.open_clip_tower import canonical_open_clip

        return canonical_open_clip(spec)
    return spec
