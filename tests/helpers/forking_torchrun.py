"""``tune`` whose torchrun forks its processes, so that the recipe is imported once and not by each of them.

Everything else is torchrun's: its store, its variables, its signals, its table of failures.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import NoReturn

from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler
from torchtune._cli.tune import main as tune

import medcap.recipes.full_finetune_distributed  # noqa: F401


class Forked:
    """What torchrun needs of ``subprocess.Popen``.

    Args:
        words: the command: Python, its options -u and -m, the program's module and its arguments.
        variables: its environment.
    """

    def __init__(self, words: Sequence[str], variables: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become(words, variables)

    def poll(self) -> int | None:
        """Exit status, if it has ended."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        """Wait for its end."""
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired([], timeout)
            time.sleep(0.01)
        return status


def _become(words: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(variables)
        assert words[1:3] == ("-u", "-m"), words
        sys.argv = list(words[3:])
        sys.modules.pop(words[3], None)
        runpy.run_module(words[3], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Run ``tune`` with this program's arguments."""
    # The store's other server keeps memory that a fork would share, and the end of a fork would end the store.
    os.environ["USE_LIBUV"] = "0"
    SubprocessHandler._popen = lambda self, args, env: Forked(args, env)
    sys.argv[0] = "tune"
    tune()


if __name__ == "__main__":
    main()
