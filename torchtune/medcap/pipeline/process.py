"""Start a program of medcap or torchtune as a separate process without a shell, watch it and stop it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from medcap.pipeline.launch import PARENT_VARIABLE

# Long enough for a large model to finish its step and save a checkpoint.
STOP_SECONDS = 300.0


class ProgramProcess:
    """A running ``tune run`` or ``medcap``, in its own session.

    So a signal from the terminal reaches only the parent, which decides whether to pass it on.

    Args:
        words: the program, ``tune`` or ``medcap``, and its command line.
        output: file to which its output is appended; None for this process's own streams.
        environment: variables to add to this process's own environment.
        descriptors: file descriptors that it inherits, such as those of locks.
    """

    def __init__(
        self,
        words: Sequence[str],
        output: Path | None = None,
        environment: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self._asked = 0.0
        stream = None if output is None else output.open("ab")
        try:
            if stream is not None:
                stream.write(("$ " + " ".join(words) + "\n").encode())
                stream.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "medcap.pipeline.launch", *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=None if stream is None else subprocess.STDOUT,
                env={**os.environ, **(environment or {}), PARENT_VARIABLE: str(os.getpid())},
                pass_fds=descriptors,
                start_new_session=True,
            )
        finally:
            if stream is not None:
                stream.close()

    def status(self) -> int | None:
        """Return the exit status; None while the process runs. After a signal it is minus the signal's number."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait until the process ends and return its exit status."""
        return self._process.wait()

    def send(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """Ask the process to save and end; kill it if it still runs after ``STOP_SECONDS``.

        Only the first call asks. Call it repeatedly until the process has ended.
        """
        if not self._asked:
            self._asked = time.monotonic()
            self._process.terminate()
        elif time.monotonic() - self._asked > STOP_SECONDS and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
