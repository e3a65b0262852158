"""How a program's error reaches its user: one line, once, on one process and under torchrun."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from medcap.errors import UserError

# How long a process that has nothing to tell stays: torchrun ends all others as soon as the first one has ended, and
# the one that has the message might not have got round to it.
QUIET_SECONDS = 3.0


def report(line: str) -> None:
    """Print an error's line, and leave it where torchrun looks for what to print at its own end.

    Args:
        line: the error in words.
    """
    line = "medcap: " + " ".join(line.split())
    print(line, file=sys.stderr, flush=True)
    tell_torchrun(line, line)


def tell_torchrun(line: str, traceback: str) -> None:
    """Leave an error where torchrun looks for what to print at its own end; without torchrun, do nothing.

    Args:
        line: the error in words.
        traceback: what its table of failures shows.
    """
    # torch.distributed.elastic.multiprocessing.errors.ProcessFailure reads this file.
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        details = {"py_callstack": traceback, "timestamp": str(int(time.time()))}
        Path(file).write_text(json.dumps({"message": {"message": line, "extraInfo": details}}), encoding="utf-8")


def report_common(line: str) -> None:
    """Print an error that the other processes of the run probably meet too: the first one tells it.

    The others tell it only if they are still there a while later, so it was theirs alone.

    Args:
        line: the error in words.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(QUIET_SECONDS)
    report(line)


def stop(error: UserError) -> NoReturn:
    """End the program with the error's one line and status 2."""
    report_common(str(error))
    sys.exit(2)
