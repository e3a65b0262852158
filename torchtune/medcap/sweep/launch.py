"""``python -m medcap.sweep.launch run RECIPE ...``: torchtune's ``tune``, asked to stop when its parent has ended."""

from __future__ import annotations

import os
import signal
import sys

PARENT_VARIABLE = "MEDCAP_SWEEP_WORKER"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Tie this process to its parent, then be ``tune``."""
    parent = int(os.environ.pop(PARENT_VARIABLE))
    if sys.platform == "linux":
        import ctypes

        # A worker may be killed by SIGKILL; its trial then saves and ends, and its GPU is free for the next.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)
    from torchtune._cli.tune import main as tune

    sys.argv[0] = "tune"
    tune()


if __name__ == "__main__":
    main()
