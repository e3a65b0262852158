"""How a training recipe runs as a program: set up, train, clean up, and one clear message if that fails."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Protocol

from medcap.errors import UserError
from medcap.reporting import QUIET_SECONDS, report, show_traceback, shown_command, unforeseen
from medcap.training.distributed.context import DistributedContext, FailedElsewhere
from medcap.training.reliability.failures import explain

LINGER_SECONDS = 1.0


class TrainingRecipe(Protocol):
    """What the training recipes have in common."""

    world: DistributedContext

    def setup(self) -> None: ...
    def train(self) -> int: ...
    def cleanup(self) -> None: ...


def run_recipe(recipe: TrainingRecipe) -> None:
    """Run a recipe to its end.

    An error that all processes meet, or that the end of one process causes in the others, is reported once: by the
    process that meets it first.

    Args:
        recipe: not set up yet; ``train`` returns the program's status, 0 at the end of the training.

    Raises:
        SystemExit: with status 2 for a mistake of the user's, 1 for any other failure, 128 and the signal's number
            where a signal asked to stop.
    """
    try:
        recipe.setup()
        status = recipe.train()
        if status == 0:
            recipe.cleanup()
    except Exception as error:
        _ignore_ended_workers()
        line = explain(error) or unforeseen(error, f"the training run {shown_command(sys.argv[1:])}")
        status = 2 if isinstance(error, UserError) else 1
        # A process that only learned of an error stays silent: it might ask first, and the reason would be lost.
        if isinstance(error, FailedElsewhere) or not recipe.world.claim("error"):
            time.sleep(QUIET_SECONDS)
            _leave_at_once(status)
        show_traceback()
        report(line)
        if recipe.world.size > 1:
            _let_others_notice(recipe.world)
            _leave_at_once(status)
    else:
        recipe.world.leave()
    if status:
        sys.exit(status)


def _ignore_ended_workers() -> None:
    """Let workers of the data loader end without reporting an error.

    torch raises one for each worker that dies, in the middle of whatever the main thread does. Here it would take the
    place of the error that is being reported.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _let_others_notice(world: DistributedContext) -> None:
    """End the collectives that the others wait in, and stay while they ask which process reports the error.

    Where torchrun does not answer them, this process may be the one that does.
    """
    # In a thread, because NCCL may wait for those that are not coming.
    threading.Thread(target=world.leave, daemon=True, name="leave").start()
    time.sleep(LINGER_SECONDS)


def _leave_at_once(status: int) -> None:
    """End the process without the usual tidying, which would wait for processes that are not coming."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
