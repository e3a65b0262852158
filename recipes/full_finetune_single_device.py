"""Train a vision encoder and a projector through a frozen language model, on one device."""

from __future__ import annotations

import sys

from medcap.checkpoints.build_model import choose_device
from medcap.entry_point import recipe
from medcap.training.distributed.context import single_world
from medcap.training.finetune_recipe import FineTuneRecipe
from medcap.training.keys import TrainingConfiguration
from medcap.training.run_recipe import run_recipe


@recipe(TrainingConfiguration)
def recipe_main(cfg: TrainingConfiguration) -> None:
    """Entry point: ``tune run medcap/recipes/full_finetune_single_device --config CONFIG [key=value ...]``."""
    run_recipe(FineTuneRecipe(cfg, single_world(choose_device(cfg.device))))


if __name__ == "__main__":
    sys.exit(recipe_main())
