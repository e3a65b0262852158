"""A program of medcap or torchtune as a process of its own: started without a shell, watched, asked to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from medcap.pipeline.launch import PARENT_VARIABLE

# A step of a large model and its checkpoint fit into this.
STOP_SECONDS = 300.0


class ProgramProcess:
    """A running ``tune run`` or ``medcap``, in a session of its own.

    A signal from the terminal reaches the parent alone, which passes it on.

    Args:
        words: the program, ``tune`` or ``medcap``, and its command line.
        output: file that what it prints is added to; None for this process's own streams.
        environment: environment of the process, in addition to this process's own.
        descriptors: open files that it inherits, such as locks.
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
        """Return its exit status, minus the signal's number for a killed one; None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait for its end and return its exit status."""
        return self._process.wait()

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """Ask it to save and end, once; after ``STOP_SECONDS`` end it. To be called until it has ended."""
        if not self._asked:
            self._asked = time.monotonic()
            self._process.terminate()
        elif time.monotonic() - self._asked > STOP_SECONDS and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
