"""Train a vision encoder and a projector through a frozen language model, on many devices."""

from __future__ import annotations

import sys

from medcap.entry_point import recipe
from medcap.training.distributed.context import join_world
from medcap.training.finetune_recipe import FineTuneRecipe
from medcap.training.keys import DistributedConfiguration
from medcap.training.run_recipe import run_recipe


@recipe(DistributedConfiguration)
def recipe_main(cfg: DistributedConfiguration) -> None:
    """Entry point: ``tune run --nproc_per_node N medcap/recipes/full_finetune_distributed --config CONFIG ...``."""
    run_recipe(FineTuneRecipe(cfg, join_world(cfg.device, cfg.timeout_minutes)))


if __name__ == "__main__":
    sys.exit(recipe_main())
