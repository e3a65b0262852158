"""The encoder that a run trained and the one that it began from, as functions from pixels to one vector an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from medcap.checkpoints.run import CONFIG_FILE, checkpoint_of, read_run, run_root
from medcap.checkpoints.vision import VisionPlan, plan_vision
from medcap.checkpoints.vision_files import find_vision_checkpoint, read_vision_checkpoint
from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.models.projectors.base import Projector
from medcap.models.towers.base import Tower
from medcap.models.towers.tensor_files import PICKLE_SUFFIXES
from medcap.training.setup import seed_everything

FEATURES = ("patches", "pooled", "projected")
NOTHING = "none"
_BASE_FILES = ("config.json", "open_clip_config.json")


@dataclass
class Encoder:
    """A tower and what is read of it.

    Attributes:
        name: name in words.
        tower: tower in evaluation mode.
        projector: projector in evaluation mode.
        features: one of ``FEATURES``.
    """

    name: str
    tower: Tower
    projector: Projector
    features: str

    @property
    def preprocess(self) -> Preprocess:
        """As ``Tower.preprocess``, without tiles: a probe looks at each image as a whole."""
        return replace(self.tower.preprocess, tiles=0)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """``[N, 3, H, W]`` uint8 -> ``[N, d]`` float32 on the CPU: a mean over tokens, or the pooled vector."""
        images = self.preprocess.normalize(pixels.to(next(self.tower.parameters()).device, non_blocking=True))
        takes = self.projector.takes if self.features == "projected" else self.features
        output = self.tower.encode_patches(images) if takes == "patches" else self.tower.encode_pooled(images)
        if self.features == "projected":
            output = self.projector(output)  # [N, K, d_llm]
        if output.ndim == 3:
            output = output.mean(dim=1)
        return output.float().cpu()


@dataclass(frozen=True)
class Start:
    """What a training begins from: the keys of its configuration.

    Attributes:
        vision: key ``vision``.
        checkpoint: key ``vision_checkpoint``.
        projector: key ``projector``; None for that of the trained checkpoint.
        seed: key ``seed``: what has no weights starts from it.
    """

    vision: str | dict[str, Any] | None
    checkpoint: str | None = None
    projector: dict[str, Any] | None = None
    seed: int = 0


@dataclass
class Encoders:
    """What is compared.

    Attributes:
        features: one of ``FEATURES``.
        after: what the run trained, or the only encoder.
        before: what it began from; None if there is none to compare with.
        checkpoint: file of the weights of ``after``; None for a base encoder.
        notices: lines that the user should see.
    """

    features: str
    after: Encoder
    before: Encoder | None
    checkpoint: Path | None
    notices: list[str]


def load_encoders(
    run: str, features: str | None = None, before: str | None = None, device: torch.device | None = None
) -> Encoders:
    """Load the encoder of a run and the one that its training began from; no language model is read.

    Args:
        run: a run's folder, one of its checkpoints, a vision checkpoint without its run, or what ``vision`` takes.
        features: one of ``FEATURES``; None for what the run's projector takes.
        before: another encoder to compare with, as ``vision`` takes it or a checkpoint, or "none"; None for the one
            that the run's configuration names, with its seed where it starts from random weights.
        device: where they go; None for the CPU.

    Returns:
        Both.

    Raises:
        UserError: if something is missing, or the encoders do not have these features.
    """
    notices: list[str] = []
    if _is_base(run):
        trained, checkpoint, start = _plan_base(run), None, None
        if features == "projected":
            raise UserError(f"features=projected: {run} is a base encoder without a projector; use patches or pooled")
    else:
        trained, checkpoint = _plan_trained(run)
        start = None if before else _read_start(run, notices)
    if before is not None and before != NOTHING:
        start = Start(before) if _is_base(before) else Start(None, before)
    after = _build(run, trained, features, device)
    if start is None:
        return Encoders(after.features, after, None, checkpoint, notices)
    try:
        name, plan = _plan_start(start, trained)
        first = _build(name, plan, after.features, device, start.seed)
    except UserError as error:
        raise UserError(f"the encoder before tuning: {error} (--before NAME, FOLDER or none)") from error
    return Encoders(after.features, after, first, checkpoint, notices)


def _is_base(name: str) -> bool:
    """Return whether this is an encoder to start from and no checkpoint of ours."""
    path = Path(name).expanduser()
    if not path.exists():
        return True
    return path.is_dir() and any((path / file).is_file() for file in _BASE_FILES)


def _plan_base(vision: str) -> VisionPlan:
    # The features of a base encoder do not depend on the projector that the plan must have.
    return plan_vision(vision, None, {"_component_": "medcap.models.mlp"}, 1)


def _plan_trained(run: str) -> tuple[VisionPlan, Path]:
    folder = Path(run).expanduser()
    has_config = (run_root(folder) / CONFIG_FILE).is_file()
    path = checkpoint_of(read_run(run)) if has_config else find_vision_checkpoint(folder)
    saved = read_vision_checkpoint(path)
    llm_dim = saved.llm.get("dim")
    if not isinstance(llm_dim, int):
        raise UserError(f"{path.parent}/vision.json does not say the width of its language model (llm.dim)")
    return plan_vision(None, str(path), saved.projector_config, llm_dim), path


def _read_start(run: str, notices: list[str]) -> Start | None:
    config = run_root(run) / CONFIG_FILE
    if not config.is_file():
        notices.append(
            f"{run} has no {CONFIG_FILE}, so what its training began from is not known: name it by --before to compare"
        )
        return None
    read_run(run)  # says what is wrong with the file, if anything is
    cfg: Any = OmegaConf.to_container(OmegaConf.load(config))
    vision = cfg.get("vision")
    if isinstance(vision, dict) and "name" not in vision:
        vision = None  # it only says how many tiles the checkpoint's tower is shown
    if vision is None and cfg.get("vision_checkpoint") is None:
        raise UserError(f"{config} names no vision, so what its training began from is not known: give --before")
    return Start(vision, cfg.get("vision_checkpoint"), cfg.get("projector"), cfg.get("seed", 0))


def _plan_start(start: Start, trained: VisionPlan) -> tuple[str, VisionPlan]:
    if start.vision is None and start.checkpoint is not None and not start.checkpoint.endswith(PICKLE_SUFFIXES):
        return start.checkpoint, _plan_trained(start.checkpoint)[0]
    projector = start.projector or trained.projector_config
    plan = plan_vision(start.vision, start.checkpoint, projector, trained.llm_dim)
    name = start.vision["name"] if isinstance(start.vision, dict) else start.vision
    if plan.tower_weights is None:
        return f"{name}, random weights of seed {start.seed}", plan
    return str(start.checkpoint or name), plan


def _build(name: str, plan: VisionPlan, features: str | None, device: torch.device | None, seed: int = 0) -> Encoder:
    # [Contract] the order of a training recipe: seed, then the tower, then the projector.
    seed_everything(seed)
    tower, projector = plan.build()
    features = features or projector.takes
    if not tower.has_pooled and "pooled" in (features, projector.takes if features == "projected" else features):
        raise UserError(f"features={features}: {name} has no pooled vector; use patches")
    device = device or torch.device("cpu")
    return Encoder(name, tower.to(device).eval(), projector.to(device).eval(), features)
