"""``python -m medcap.pipeline.launch tune run ...``: a program that is asked to stop when its parent has ended."""

from __future__ import annotations

import os
import runpy
import signal
import sys

PARENT_VARIABLE = "MEDCAP_PARENT"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Tie this process to its parent, then be the program that the first word names: ``tune`` or ``medcap``."""
    parent = int(os.environ.pop(PARENT_VARIABLE))
    if sys.platform == "linux":
        import ctypes

        # The parent may be killed by SIGKILL; its run then saves and ends, and its GPU is free for the next.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)
    sys.argv = sys.argv[1:]
    if sys.argv[0] == "medcap":
        runpy.run_module("medcap.cli", run_name="__main__")
        return
    from torchtune._cli.tune import main as tune

    tune()


if __name__ == "__main__":
    main()
