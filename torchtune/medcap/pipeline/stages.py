"""Remember which stages are done, each under a hash of its settings and of all stages before it."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from medcap.errors import UserError
from medcap.files import write_json

State = Literal["new", "begun", "changed", "done"]


class Stages:
    """Which stages are done, and how long they took.

    Args:
        path: JSON file that records them.

    Attributes:
        seconds: stage -> seconds that it took, for the stages that are done.
        cached: names of the stages that an earlier start has done.

    Raises:
        UserError: if the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise UserError(f"{path} is damaged: remove it, and the stages start again") from error
        self._chain = ""
        self.seconds: dict[str, float] = {}
        self.cached: list[str] = []

    def state(self, name: str, key: Any, makes: Path | None) -> State:
        """Move to the next stage and return its state after earlier starts.

        Args:
            name: name of the stage.
            key: its settings; with other settings, or after other stages, the stage has changed.
            makes: file that it writes last; while the file is missing the stage is not done. None checks no file.

        Returns:
            "new", "begun" (interrupted or failed), "changed" or "done".
        """
        self._chain = hashlib.sha256(json.dumps([self._chain, name, key], default=str).encode()).hexdigest()
        known = self._known.get(name)
        if known is None:
            return "new"
        if known["key"] != self._chain:
            return "changed"
        if known["seconds"] is None or (makes is not None and not makes.is_file()):
            return "begun"
        self.cached.append(name)
        self.seconds[name] = known["seconds"]
        print(f"[{name}] done before, took {known['seconds']} s", file=sys.stderr)
        return "done"

    def work(self, name: str, work: Callable[[], None]) -> None:
        """Do the stage for which ``state`` was called last; until it succeeds it counts as begun."""
        self._remember(name, None)
        started = time.monotonic()
        work()
        self.seconds[name] = round(time.monotonic() - started, 1)
        self._remember(name, self.seconds[name])

    def forget(self, name: str) -> None:
        """Count a stage as never begun."""
        del self._known[name]
        write_json(self._path, self._known)

    def run(self, name: str, key: Any, makes: Path, work: Callable[[], None]) -> None:
        """Do a stage, unless it was done with the same key after the same earlier stages and its file exists."""
        if self.state(name, key, makes) != "done":
            print(f"[{name}]", file=sys.stderr)
            self.work(name, work)

    def _remember(self, name: str, seconds: float | None) -> None:
        self._known[name] = {"key": self._chain, "seconds": seconds}
        write_json(self._path, self._known)
