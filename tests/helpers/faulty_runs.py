"""Runs of real processes to which something is done, and what they wrote and said."""

import json
import resource

from helpers.waiting import wait_for
from helpers.workspace import Workspace, log

FAULTY = ("projector._component_=helpers.faulty_components.faulty_mlp", "dataset.packed=false", "batch_size=2")
SLOW = (*FAULTY, "projector.delay=0.05")
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def workspace_in(folder):
    """12 records with an image each: 6 steps of an epoch on one process, 3 on two, a projector's pass in each."""
    workspace = Workspace(folder)
    workspace.data = workspace.write_data("train.json", workspace.records()[:12])
    return workspace


def stoppable(workspace):
    return (*FAULTY, "epochs=3", f"validation_source={workspace.data}")


def train(server, workspace, output, *overrides, processes=1, **options):
    return server.train(workspace, output, "num_workers=0", *overrides, processes=processes, **options)


def wait_until(condition, run):
    """Wait until a condition holds; fails if the run ends before."""

    def holds():
        alive = run.alive()
        found = condition()
        assert found or alive, run.printed()
        return found

    return wait_for(holds)


def wait_for_step(run, output, step):
    """Wait until the log has a step."""
    wait_until(lambda: (output / "log" / "metrics.jsonl").is_file() and len(log(output)) >= step, run)


class Holds:
    """Passes of the faulty projector at which a run waits, so that a test can do something to it there.

    Args:
        folder: folder for empty files; these can be created even on a full disk.
        calls: the passes, counted from 1.
        rank: that waits; None means all.
    """

    def __init__(self, folder, *calls, rank=None):
        self.folder, self.calls, self.rank = folder, calls, rank
        folder.mkdir()

    @property
    def overrides(self):
        rank = "null" if self.rank is None else self.rank
        return (
            f"projector.hold_calls={list(self.calls)}",
            f"projector.hold_folder={self.folder}",
            f"projector.rank={rank}",
        )

    def reached(self, run, call):
        """Wait until the run waits in a pass."""
        wait_until((self.folder / f"waits_{call}").exists, run)

    def go_on(self, call):
        """Let it go on."""
        (self.folder / f"go_on_{call}").touch()


def files_of(checkpoint):
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}


def logged(output):
    rows = map(json.loads, (output / "log" / "metrics.jsonl").read_text().splitlines())
    return [{key: row.get(key) for key in ("step", "loss", "lr", "validation_loss")} for row in rows]


def lines_of(run):
    return [line for rank in range(len(run.pids)) for line in run.printed(rank).splitlines()]


def said(run):
    """The lines that the processes ended with."""
    return [line for line in lines_of(run) if line.startswith("medcap: ")]
