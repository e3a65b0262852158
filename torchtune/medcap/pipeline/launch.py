"""``python -m medcap.pipeline.launch tune run ...``: run a program that gets SIGTERM when its parent ends."""

from __future__ import annotations

import os
import runpy
import signal
import sys

PARENT_VARIABLE = "MEDCAP_PARENT"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Tie this process to its parent, then run the program that the first word names: ``tune`` or ``medcap``."""
    parent = int(os.environ.pop(PARENT_VARIABLE))
    if sys.platform == "linux":
        import ctypes

        # A parent killed by SIGKILL cannot stop its run. With this signal the run saves, ends and frees its GPU.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The parent may have ended before the request above, which then sends no signal.
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
