"""The generation recipe in processes of which the second kills itself once it has written some answers."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Mapping
from typing import Any

from medcap.evaluation.shared.predictions import SharedPredictions

RECIPE = "medcap.recipes.generate"
ANSWERS = 2


def kill_after(answers: int) -> None:
    """Kill this process when it has written so many answers."""
    append = SharedPredictions.append
    left = [answers]

    def counted(self: SharedPredictions, row: Mapping[str, Any]) -> None:
        append(self, row)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    SharedPredictions.append = counted


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        kill_after(ANSWERS)
    sys.modules.pop(RECIPE, None)
    runpy.run_module(RECIPE, run_name="__main__")
