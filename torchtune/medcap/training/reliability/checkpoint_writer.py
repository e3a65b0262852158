"""Write in the background of the training: one write at a time, in a thread; failures are reported, not raised."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from medcap.errors import UserError

_OS_ERROR = re.compile(r".*I/O error: (.*) \(os error \d+\)")  # the wording of safetensors
_FULL = 16 * 2**20  # bytes free below which a writer's unclear message means a full disk


class BackgroundWriter:
    """Runs one write at a time in a thread.

    The thread is not a daemon thread: an interpreter that ends for any reason but a signal's default action waits for
    it, so that a checkpoint being written is not thrown away. Writing releases the GIL, so training continues.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._messages: list[str] = []
        self._failure: str | None = None
        self._bug: BaseException | None = None

    def start(self, step: int, folder: Path, write: Callable[[], list[str]]) -> None:
        """Begin a write; an earlier one is waited for first.

        Args:
            step: optimizer steps made, for the messages.
            folder: what is written, for the messages.
            write: does it, and returns further lines for the user. It cleans up after itself when it raises.

        Raises:
            BaseException: what an earlier write raised, if it was a mistake in the code and not a failure to write.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(step, folder, write), name="checkpoint-writer")
        self._thread.start()

    def wait(self) -> None:
        """Wait for the write that runs, if one does.

        Raises:
            BaseException: what it raised, if it was a mistake in the code and not a failure to write.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._bug is not None:
            bug, self._bug = self._bug, None
            raise bug

    def messages(self) -> list[str]:
        """Return the lines for the user since the last call."""
        with self._lock:
            lines, self._messages = self._messages, []
        return lines

    def finish(self) -> None:
        """Wait for the last write.

        Raises:
            UserError: if it failed.
        """
        self.wait()
        if self._failure is not None:
            raise UserError(self._failure)

    def _run(self, step: int, folder: Path, write: Callable[[], list[str]]) -> None:
        started = time.perf_counter()
        try:
            further = write()
        except (OSError, RuntimeError, SafetensorError, UserError) as error:
            reason = describe_failure(error, folder)
            self._failure = (
                f"the last checkpoint, step {step}, could not be written ({reason}): make room or fix the folder, then"
                " go on from the newest complete one with resume_from_checkpoint=latest"
            )
            lines = [
                f"step {step}: the checkpoint could not be written ({reason}); training goes on, the next save tries"
                " again"
            ]
        except BaseException as error:
            self._bug = error
            return
        else:
            self._failure = None
            lines = [f"saved {folder} ({time.perf_counter() - started:.1f} s in the background)", *further]
        with self._lock:
            self._messages += lines


def describe_failure(error: Exception, folder: Path) -> str:
    """Why something could not be written, in a few words.

    Args:
        error: error of the operating system, torch's or safetensors' writer, or ``UserError``.
        folder: what was being written.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {folder}"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    reason = _OS_ERROR.sub(r"\1", reason)
    # torch's writer of zip files only says that a position is unexpected.
    if "inline_container" in reason and _free_bytes(folder) < _FULL:
        reason = "No space left on device"
    return f"{reason}: {folder}"


def _free_bytes(folder: Path) -> float:
    for location in (folder, *folder.parents):
        try:
            return shutil.disk_usage(location).free
        except OSError:
            continue
    return float("inf")
