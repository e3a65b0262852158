"""The training recipes in a process that kills itself at an operation on its checkpoints.

A test that sends the signal from outside would meet another moment on each machine.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any

from helpers.warm_start import RECIPES

_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "shutil.rmtree"}


def kill_at(operation: int, milliseconds: int) -> None:
    """Kill this process once it has written a checkpoint, which each start needs to get on.

    Args:
        operation: files and folders that are made, renamed or removed after that checkpoint, in the writer's thread;
            the process is killed before the one of this number. 0 for never.
        milliseconds: milliseconds to wait after that checkpoint; the moment may be in the middle of a file. 0 never
            kills.
    """
    process, done = os.getpid(), [-1]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        makes_file = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if os.getpid() != process or not (event in _CHANGES or makes_file):
            return
        if not any("/checkpoint/" in str(argument) for argument in arguments[:2]):
            return
        if done[0] < 0:
            if event == "os.rename" and str(arguments[1]).endswith("/latest"):
                done[0] = 0
                signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)  # it has no handler, so it ends the process
            return
        done[0] += 1
        if done[0] == operation:
            os.kill(process, signal.SIGKILL)

    sys.addaudithook(hook)


def main() -> None:
    """Take ``kill_at=OPERATION,MILLISECONDS`` from the command line and run the recipe on the rest."""
    words = [word for word in sys.argv if word.startswith("kill_at=")]
    sys.argv = [word for word in sys.argv if word not in words]
    if os.environ.get("RANK", "0") == "0":
        kill_at(*map(int, words[0].removeprefix("kill_at=").split(",")))
    recipe = RECIPES[os.environ.get("WORLD_SIZE", "1") != "1"]
    sys.modules.pop(recipe, None)
    runpy.run_module(recipe, run_name="__main__")


if __name__ == "__main__":
    main()
