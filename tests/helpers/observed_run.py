"""The distributed recipe, and a file from each process: which records it used and with what weights it ended."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.warm_start import WarmStart
from helpers.workspace import Workspace
from medcap.entry_point import recipe
from medcap.training.data import LoadedStep
from medcap.training.distributed.context import join_world
from medcap.training.finetune_recipe import FineTuneRecipe
from medcap.training.keys import DistributedConfiguration
from medcap.training.run_recipe import run_recipe


class ObservedRecipe(FineTuneRecipe):
    """Writes ``observed_RANK_PID.json`` into the output folder."""

    def setup(self) -> None:
        super().setup()
        self.used: dict[int, list[str]] = {}
        steps = self.trainer.data.steps

        def observed(epoch: int, start: int) -> Iterator[LoadedStep]:
            for step in steps(epoch, start):
                yield step
                # Behind the yield: the step was made.
                self.used.setdefault(epoch, []).extend(name for batch in step.batches if batch for name in batch.names)

        self.trainer.data.steps = observed

    def train(self) -> int:
        status = super().train()
        trainer = self.trainer
        weights = trainer.model.tower.state_dict(prefix="vision.") | trainer.model.projector.state_dict(
            prefix="projector."
        )
        hashes = {name: hash_of(tensor) for name, tensor in weights.items()}
        file = Path(self.cfg.output_dir) / f"observed_{self.world.rank}_{os.getpid()}.json"
        file.write_text(json.dumps({"used": self.used, "weights": hashes}))
        return status


def hash_of(tensor: Any) -> str:
    """sha256 of a tensor's bytes."""
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


def observe(
    server: WarmStart, workspace: Workspace, output: str, *overrides: str, processes: int
) -> list[dict[str, Any]]:
    """Run the observed recipe to its end.

    Args:
        server: that starts processes.
        workspace: workspace with the model and the data.
        output: name of the output folder.
        overrides: ``key=value``.
        processes: how many.

    Returns:
        What the processes wrote, in the order of the ranks; ``used`` has the records of each epoch.
    """
    folder = workspace.folder / output
    for former in folder.glob("observed_*.json"):
        former.unlink()
    overrides = ("num_workers=0", "epochs=2", *overrides)
    run = server.train(workspace, output, *overrides, processes=processes, module="helpers.observed_run")
    assert run.wait() == [0] * processes, run.printed()
    return observations(folder)


def observations(output: Path) -> list[dict[str, Any]]:
    """What the processes of all runs into a folder wrote."""
    return [json.loads(file.read_text()) for file in sorted(output.glob("observed_*.json"))]


@recipe(DistributedConfiguration)
def main(cfg: DistributedConfiguration) -> None:
    """Entry point."""
    run_recipe(ObservedRecipe(cfg, join_world(cfg.device, cfg.timeout_minutes)))


if __name__ == "__main__":
    main()
