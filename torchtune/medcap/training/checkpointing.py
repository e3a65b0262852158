"""Checkpoints of a run: ``step_NNNNNN`` folders that are complete or invisible, and exact resume from them."""

from __future__ import annotations

import random
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from medcap.checkpoints.atomic import atomic_folder, is_complete, latest_complete, point_latest
from medcap.checkpoints.vision import save_meta_model, save_vision
from medcap.errors import UserError
from medcap.models.vision_language_model import VisionLanguageModel

_STEP = re.compile(r"step_\d{6,}")


@dataclass
class Position:
    """Where a run is.

    Attributes:
        step: optimizer steps made.
        epoch: the epoch it is in, from 0.
        batch: batches of that epoch it has used.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
