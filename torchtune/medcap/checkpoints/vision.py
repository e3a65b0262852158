"""The vision side of a model from what a configuration says: every check first, the weights afterwards."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.vision_files import (
    DESCRIPTION_FILE,
    POOLED_MLP,
    SavedVision,
    check_sections,
    find_vision_checkpoint,
    read_vision_checkpoint,
)
from medcap.errors import UserError
from medcap.models.component import Component
from medcap.models.preprocess import Preprocess
from medcap.models.projectors.base import Projector, build_projector
from medcap.models.towers.base import Tower, TowerShape
from medcap.models.towers.registry import NAMED_TOWERS, build_tower, resolve_tower, same_architecture
from medcap.models.towers.source import TowerSource
from medcap.models.towers.tensor_files import PICKLE_SUFFIXES, TensorFiles, open_tensor_files

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass
class VisionPlan:
    """A tower and a projector that are known to fit together, the language model and their files.

    Attributes:
        tower_spec: tower spec as ``Tower.spec``.
        preprocess: preprocess as ``Tower.preprocess``.
        shape: shape of the tower's output.
        projector_config: ``_component_`` and options.
        num_image_tokens: K.
        llm_dim: width of the language model's embeddings.
        llm: what a checkpoint remembers of its language model; empty without one.
        notices: lines that the user should see.
        tower_weights: None for random initial weights.
        projector_weights: None for random initial weights.
        saved: the checkpoint that it comes from, if it comes from one of ours.
        projector_learns: whether the projector has parameters.
    """

    tower_spec: dict[str, Any]
    preprocess: Preprocess
    shape: TowerShape
    projector_config: dict[str, Any]
    num_image_tokens: int
    llm_dim: int
    llm: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    tower_weights: TensorFiles | None = field(default=None, repr=False)
    projector_weights: TensorFiles | None = field(default=None, repr=False)
    saved: SavedVision | None = field(default=None, repr=False)
    projector_learns: bool = True

    @property
    def takes(self) -> str:
        """What the projector takes of an image, as ``Projector.takes``."""
        with _full_precision("meta"):
            return self._projector().takes

    def build(self) -> tuple[Tower, Projector]:
        """Build both and load their weights.

        Returns:
            Tower and projector, fp32 on the CPU; what has no weights starts from torch's random generator.
        """
        tower = materialise(self._tower, self.tower_weights)
        return tower, materialise(self._projector, self.projector_weights)

    def on_meta(self) -> dict[str, Component]:
        """Build both without memory, by name."""
        with _full_precision("meta"):
            return {part.name: part for part in (self._tower(), self._projector())}

    def _tower(self) -> Tower:
        return build_tower(self.tower_spec, self.preprocess)

    def _projector(self) -> Projector:
        return build_projector(self.projector_config, self.shape, self.llm_dim)


def plan_vision(
    vision: str | Mapping[str, Any] | None,
    vision_checkpoint: str | None,
    projector: Mapping[str, Any],
    llm_dim: int,
) -> VisionPlan:
    """Find and check the vision side; of weight files only the headers are read.

    Args:
        vision: a tower as ``resolve_tower`` takes it, or a saved vision folder, of which it takes the tower alone.
            A mapping may also say ``tiles``, as in ``Preprocess``; a checkpoint's own are used where it does not.
        vision_checkpoint: a folder or file of ``save_components`` (it brings its own tower and projector, and base
            weights are neither needed nor downloaded), or medcap 2024's ``meta_model_*.pt``, whose tower ``vision``
            must name.
        projector: ``_component_`` and options.
        llm_dim: width of the language model's embeddings.

    Returns:
        The plan.

    Raises:
        UserError: if something is missing or does not fit; the message names file, tensor and shapes.
    """
    vision, tiles = _take_tiles(vision)
    if vision_checkpoint is not None:
        path = Path(vision_checkpoint).expanduser()
        if path.suffix in PICKLE_SUFFIXES:
            return _with_tiles(_plan_meta_model(path, vision, projector, llm_dim), tiles)
        saved = read_vision_checkpoint(find_vision_checkpoint(path))
        plan, others = _plan_saved(saved, vision, projector, llm_dim)
        plan.notices += [f"{saved.path} brings its own {other.own}; {other.given} is not used" for other in others]
        return _with_tiles(plan, tiles)
    if vision is None:
        raise UserError("vision is missing: give vision=biomedclip, siglip, clip, tiny or a folder")
    return _with_tiles(_plan(_tower_source(vision, weights=True), projector, llm_dim), tiles)


def plan_vision_of_run(
    saved: SavedVision,
    key: str,
    vision: str | Mapping[str, Any] | None,
    projector: Mapping[str, Any] | None,
    llm_dim: int,
) -> VisionPlan:
    """Plan the tower and the projector of an earlier run, which must be those that the configuration names.

    Args:
        saved: checkpoint of the earlier run.
        key: what names that run, such as ``init_from=runs/align``, for messages.
        vision: tower of the configuration; None for the run's.
        projector: ``_component_`` and options of the configuration; None for the run's.
        llm_dim: width of the language model's embeddings.

    Raises:
        UserError: if the run has another tower or projector.
    """
    vision, tiles = _take_tiles(vision)
    plan, others = _plan_saved(saved, vision, projector or {}, llm_dim)
    for other in others:
        if other.certain:
            raise UserError(
                f"{key} brings its own {other.own}, not {other.given}: name the same, or start from its tower alone"
                " with vision=RUN in place of init_from"
            )
    return _with_tiles(plan, tiles)


def check_llm(plan: VisionPlan, fingerprint: str) -> None:
    """Compare the language model with the one that a vision checkpoint was trained on; a difference is a notice.

    Args:
        plan: gets the notice.
        fingerprint: fingerprint of the language model that is loaded now, before it is quantised.
    """
    trained_on = plan.llm.get("fingerprint")
    if trained_on is not None and trained_on != fingerprint:
        plan.notices.append(
            f"the vision checkpoint was trained on another language model ({plan.llm.get('component', 'unnamed')}, "
            f"fingerprint {trained_on[:12]}) than this one (fingerprint {fingerprint[:12]}): expect worse answers"
        )


def _plan(
    source: TowerSource, projector: Mapping[str, Any], llm_dim: int, projector_weights: TensorFiles | None = None
) -> VisionPlan:
    with _full_precision("meta"):
        tower = build_tower(source.spec, source.preprocess)
        shape = _measure(tower)
        built = build_projector(projector, shape, llm_dim)
    location = source.location or Path(".")
    if source.weights is not None:
        source.weights.check(_shapes(tower), location, f"the {source.spec['kind']} tower")
    if projector_weights is not None:
        purpose = f"a projector of this kind for a language model of width {llm_dim}"
        projector_weights.check(_shapes(built), location, purpose)
    return VisionPlan(
        source.spec,
        source.preprocess,
        shape,
        dict(projector),
        built.num_image_tokens,
        llm_dim,
        notices=list(source.notices),
        tower_weights=source.weights,
        projector_weights=projector_weights,
        projector_learns=next(built.parameters(), None) is not None,
    )


def _take_tiles(vision: str | Mapping[str, Any] | None) -> tuple[str | Mapping[str, Any] | None, int | None]:
    """Divide what names a tower into the tower and ``tiles``, which any tower can have; None where it is not given."""
    if not isinstance(vision, Mapping) or "tiles" not in vision:
        return vision, None
    tower = {key: value for key, value in vision.items() if key != "tiles"}
    return tower if set(tower) - {"name"} else tower.get("name"), vision["tiles"]


def _with_tiles(plan: VisionPlan, tiles: int | None) -> VisionPlan:
    """Let a plan show its images in ``tiles``; None leaves what it has."""
    if tiles is not None:
        try:
            plan.preprocess = replace(plan.preprocess, tiles=tiles)
        except UserError as error:
            raise UserError(f"vision.{str(error).removeprefix('preprocess: ')}") from error
    return plan


class _Other(NamedTuple):
    """A component of a checkpoint where the configuration names another one, and whether that is certain."""

    own: str
    given: str
    certain: bool = True


def _plan_saved(
    saved: SavedVision, vision: str | Mapping[str, Any] | None, projector: Mapping[str, Any], llm_dim: int
) -> tuple[VisionPlan, list[_Other]]:
    """Plan a checkpoint's own tower and projector, and list where the configuration names others."""
    plan = _plan(_saved_tower(saved), saved.projector_config, llm_dim, saved.tensors["projector"])
    if plan.num_image_tokens != saved.num_image_tokens:
        raise UserError(
            f"{saved.path.parent / DESCRIPTION_FILE}: num_image_tokens={saved.num_image_tokens}, "
            f"but its projector gives {plan.num_image_tokens}"
        )
    plan.llm, plan.saved = saved.llm, saved
    others = []
    same = True if vision is None else _is_tower(vision, saved.tower_spec)
    if not same:
        name = vision.get("name") if isinstance(vision, Mapping) else vision
        others.append(_Other("tower", f"vision={name}", same is not None))
    held = {**saved.projector_config, "num_image_tokens": saved.num_image_tokens}
    wanted = {key: value for key, value in projector.items() if value is not None}
    if any(held.get(key) != value for key, value in wanted.items()):
        others.append(_Other(f"projector {_describe(held)}", _describe(wanted)))
    return plan, others


def _plan_meta_model(
    path: Path, vision: str | Mapping[str, Any] | None, projector: Mapping[str, Any], llm_dim: int
) -> VisionPlan:
    tensors = open_tensor_files(path)
    check_sections(tensors, path, ("visual.", "projector."))
    if vision is None:
        raise UserError(f"{path} does not say which tower it holds: name it too, such as vision=biomedclip")
    given = dict(projector)
    weights = tensors.under("projector.")
    for name in ("0.weight", "2.weight"):
        if name not in weights.names or len(weights.shape(name)) != 2:
            raise UserError(f"{path}: tensor projector.{name} is missing or no matrix, so this is no meta_model file")
    hidden, outputs = weights.shape("0.weight")[0], weights.shape("2.weight")[0]
    named = given.get("hidden_dim") if given.get("_component_") == POOLED_MLP else None
    # The file does not say d, and K * d alone would fit other language models too; medcap 2024's hidden width is d.
    if hidden != (named or llm_dim) or outputs % llm_dim:
        raise UserError(
            f"{path}: tensors projector.0.weight {list(weights.shape('0.weight'))} and projector.2.weight "
            f"{list(weights.shape('2.weight'))} belong to a language model of width {hidden}, this one has {llm_dim}"
        )
    config: dict[str, Any] = {"_component_": POOLED_MLP, "num_image_tokens": outputs // llm_dim}
    if hidden != llm_dim:
        config["hidden_dim"] = hidden
    source = _tower_source(vision, weights=False)
    source.weights, source.location = tensors.under("visual."), path
    plan = _plan(source, config, llm_dim, weights)
    if given.get("_component_") != POOLED_MLP or given.get("num_image_tokens") not in (None, plan.num_image_tokens):
        plan.notices.append(f"{path} brings the projector {_describe(config)}; {_describe(given)} is not used")
    return plan


def _tower_source(vision: str | Mapping[str, Any], weights: bool) -> TowerSource:
    saved_path = _saved_path(vision)
    if saved_path is not None:
        return _saved_tower(read_vision_checkpoint(saved_path))
    return resolve_tower(vision, weights)


def _saved_path(vision: str | Mapping[str, Any]) -> Path | None:
    """Return the weights file if ``vision`` is a checkpoint of ``save_components``."""
    name = vision.get("name") if isinstance(vision, Mapping) and set(vision) == {"name"} else vision
    if not isinstance(name, str) or name == "tiny" or name in NAMED_TOWERS:
        return None
    path = Path(name).expanduser()
    is_saved = path.is_file() or (path / DESCRIPTION_FILE).is_file()
    base_model = any((path / file).is_file() for file in ("config.json", "open_clip_config.json"))
    if is_saved or (path.is_dir() and not base_model and latest_checkpoint(path) is not None):
        return find_vision_checkpoint(path)
    return None


def _saved_tower(saved: SavedVision) -> TowerSource:
    return TowerSource(saved.tower_spec, saved.preprocess, saved.tensors["vision"], saved.path)


def _is_tower(vision: str | Mapping[str, Any], spec: dict[str, Any]) -> bool | None:
    """Return whether ``vision`` is this architecture; None where that is not known without a network."""
    on_the_hub = isinstance(vision, str) and "/" in vision and not Path(vision).expanduser().exists()
    if on_the_hub:
        return None
    try:
        return same_architecture(_tower_source(vision, weights=False).spec, spec)
    except UserError:
        return False


def _describe(config: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key}={value}" for key, value in config.items() if key != "_component_" and value is not None)
    return f"{config.get('_component_')}({options})"


def _measure(tower: Tower) -> TowerShape:
    try:
        return tower.shape
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, KeyError) as error:
        size, reason = tower.preprocess.image_size, (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"vision: this tower cannot take images of {size} x {size} pixels: {reason}") from error


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def materialise(build: Callable[[], AnyModule], weights: TensorFiles | None) -> AnyModule:
    """Build a module and load its weights; random initialisation, seconds for a large one, is left out where it can be.

    Args:
        build: builds the module on the current default device.
        weights: tensors under the module's own names; None keeps what ``build`` initialises.

    Returns:
        The module, fp32 on the CPU.
    """
    if weights is None:
        with _full_precision("cpu"):
            return build()
    state = weights.read()
    with _full_precision("meta"):
        module = build()
    module.load_state_dict(state, assign=True)
    with _full_precision("cpu"):
        if isinstance(module, Tower):
            module.restore_buffers()
        if any(tensor.is_meta for tensor in itertools.chain(module.parameters(), module.buffers())):
            module = build()
            module.load_state_dict(state)
    return module


@contextlib.contextmanager
def _full_precision(device: str) -> Generator[None]:
    """Build in fp32 on this device, whatever the defaults are."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
