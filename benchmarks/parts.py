"""Run commands one after another, each within a time of its own, and keep what each of them came to."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from medcap.files import write_json

# A part that has less time than this is not begun.
LEAST_SECONDS = 3.0
# Between the request to end and the signal that cannot be refused.
GRACE_SECONDS = 2.0


@dataclass(frozen=True)
class Part:
    """One command.

    Attributes:
        name: names its files.
        command: program and arguments.
        seconds: time that it may take.
    """

    name: str
    command: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What a part came to.

    Attributes:
        name: name of the part.
        status: ``done``, ``failed``, ``out of time`` or ``left out``, for which no time was left.
        exit: the program's status; None where it was ended, or did not begin.
        seconds: time that it took.
        limit: time that it had.
        command: program and arguments.
    """

    name: str
    status: str
    exit: int | None
    seconds: float
    limit: float
    command: tuple[str, ...]


def run_parts(parts: Sequence[Part], folder: Path, seconds: float, environment: Mapping[str, str]) -> list[Outcome]:
    """Run the parts in their order; one that fails or hangs does not stop the others.

    Args:
        parts: the most valuable first.
        folder: gets ``NAME.log``, what a part printed, and ``NAME.part.json``, its outcome, as soon as it has ended.
        seconds: time for all of them together.
        environment: further variables for each of them.

    Returns:
        The outcomes, in the same order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    outcomes = []
    for part in parts:
        limit = min(part.seconds, end - time.monotonic())
        outcome = Outcome(part.name, "left out", None, 0.0, round(max(limit, 0.0), 1), part.command)
        if limit >= min(LEAST_SECONDS, part.seconds):
            outcome = _run(part, folder / f"{part.name}.log", limit, {**os.environ, **environment})
        write_json(folder / f"{part.name}.part.json", asdict(outcome))
        print(f"{outcome.status:>11} {outcome.seconds:6.1f} of {outcome.limit:5.1f} s  {part.name}", flush=True)
        outcomes.append(outcome)
    return outcomes


def _run(part: Part, log: Path, limit: float, environment: Mapping[str, str]) -> Outcome:
    started = time.monotonic()

    def outcome(status: str, code: int | None) -> Outcome:
        return Outcome(part.name, status, code, round(time.monotonic() - started, 1), round(limit, 1), part.command)

    with log.open("wb") as output:
        try:
            # A group of its own, so that what it starts ends with it.
            process = subprocess.Popen(
                part.command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        except OSError as error:
            output.write(f"{error}\n".encode())
            return outcome("failed", None)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            _end(process)
            return outcome("out of time", None)
        except BaseException:
            _end(process)
            raise
    return outcome("failed" if code else "done", code)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outcomes_table(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a table row for each part."""
    lines = ["| part | came to | seconds | of |", "|---|---|---:|---:|"]
    return lines + [f"| {one.name} | {one.status} | {one.seconds:.1f} | {one.limit:.1f} |" for one in outcomes]
