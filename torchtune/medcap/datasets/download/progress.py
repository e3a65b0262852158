"""A progress bar on a terminal, and a line a minute in a log."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS_IN_LOG = 60


def progress_bar(total: int | None, what: str, unit: str, scale: bool = False) -> tqdm[Any]:
    """Start a bar.

    Args:
        total: number of units, None if it is not known.
        what: its title.
        unit: what is counted.
        scale: write 1.5M in place of 1500000, as for bytes.
    """
    if sys.stderr.isatty():
        return tqdm(total=total, desc=what, unit=unit, unit_scale=scale, dynamic_ncols=True, smoothing=0.1)
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=scale,
        mininterval=_SECONDS_IN_LOG,
        maxinterval=_SECONDS_IN_LOG,
        ncols=100,
        ascii=True,
        position=0,  # a second bar would move the cursor up, which a log cannot
        file=_Lines(sys.stderr),
    )


class _Lines:
    """A stream that writes each state of a bar as a line: a log has no carriage returns."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write the last state in the text."""
        line = text.rpartition("\r")[2].strip()
        if line:
            self._stream.write(line + "\n")

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


def size_text(count: float) -> str:
    """Return bytes in words: ``1.2 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
