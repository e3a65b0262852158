"""Which stages of several are done: each by a key of what it runs and of all that ran before it."""

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
        path: file that remembers them.

    Attributes:
        seconds: seconds of each stage that is done.
        cached: the stages that were done before.
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
        """Go on to a stage and say what became of it earlier.

        Args:
            name: name of the stage.
            key: what it runs; with another one, or after other stages, it has changed.
            makes: file that it ends with; without it the stage is not done.
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
        """Do the stage that ``state`` was asked of; it counts as begun until it has ended well."""
        self._remember(name, None)
        started = time.monotonic()
        work()
        self.seconds[name] = round(time.monotonic() - started, 1)
        self._remember(name, self.seconds[name])

    def run(self, name: str, key: Any, makes: Path, work: Callable[[], None]) -> None:
        """Do a stage, unless it was done with the same key after the same earlier stages and its file is there."""
        if self.state(name, key, makes) != "done":
            print(f"[{name}]", file=sys.stderr)
            self.work(name, work)

    def _remember(self, name: str, seconds: float | None) -> None:
        self._known[name] = {"key": self._chain, "seconds": seconds}
        write_json(self._path, self._known)
