"""A worker: a process that runs one trial after another on its own GPUs. The manager starts and directs it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from medcap.reporting import run_program
from medcap.sweep.definition import Definition
from medcap.sweep.study import Study
from medcap.sweep.trial import run_trial


class Worker:
    """Claims trials until none is left.

    Args:
        study: study of the sweep.
        name: name for the table.
        environment: environment for the trials' processes.
    """

    def __init__(self, study: Study, name: str, environment: dict[str, str]) -> None:
        self._study, self._name, self._environment = study, name, environment
        self._stopping = False
        self._parent = os.getppid()

    def run(self) -> None:
        """Run trials until none is left, or until this process is asked to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        while not self._wait(0.0):
            claim = self._study.claim(self._name)
            if claim is None:
                return
            end = run_trial(self._study, claim, self._environment, self._wait)
            self._study.end(claim.trial, end.state, end.outcome, end.reason, end.value)
            if claim.lock is not None:
                claim.lock.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        # Without its manager no process would report to the user or stop this one.
        return self._stopping or os.getppid() != self._parent


def main() -> None:
    """Read the job from standard input: ``{"definition", "name", "environment"}``."""
    job: dict[str, Any] = json.load(sys.stdin)

    def work() -> None:
        Worker(Study(Definition.from_dict(job["definition"])), job["name"], job["environment"]).run()

    run_program(work, ["the sweep's worker", job["name"]])


if __name__ == "__main__":
    main()
