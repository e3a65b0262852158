"""The name ``biomedclip`` for a small trunk of the same structure, here and in the processes that tests start."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from helpers.vision_checkpoints import TIMM_VISION
from medcap.models.towers import registry
from medcap.models.towers.named_towers import NamedTower


def small_biomedclip() -> NamedTower:
    """What ``write_open_clip_folder`` writes, under BiomedCLIP's name."""
    small = {"kind": "open_clip", "embed_dim": 12, "vision_cfg": dict(TIMM_VISION), "quick_gelu": False}
    named = registry.NAMED_TOWERS["biomedclip"]
    spec = {**named.spec, **{key: value for key, value in small.items() if key in named.spec}}
    return dataclasses.replace(named, spec=spec, preprocess=dataclasses.replace(named.preprocess, image_size=160))


def install() -> None:
    """Take the small tower for the rest of this process."""
    registry.NAMED_TOWERS["biomedclip"] = small_biomedclip()


def install_in_children(folder: Path) -> dict[str, str]:
    """Prepare what makes Python processes take the small tower; the programs that they run are left as they are.

    Args:
        folder: gets a ``sitecustomize`` module, which Python imports when it starts.

    Returns:
        The variables of their environment.
    """
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text("from helpers import small_biomedclip\n\nsmall_biomedclip.install()\n")
    return {"PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}"}
