"""Speed and loss while training: measured, shown, and written a line a step."""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torchtune.training.metric_logging import MetricLoggerInterface
from tqdm import tqdm

from medcap.data.json_text import parse_json
from medcap.errors import UserError
from medcap.files import atomic_file


def say(text: str) -> None:
    """Print a line on standard error; if that is a file on a full disk, the line is lost and training continues."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class SpeedMeter:
    """Tokens, label tokens and images a second over the last steps.

    Three figures, because each alone misleads: total tokens count the questions and the image, label tokens count only
    what is learnt; padding is in neither.

    Args:
        window: steps looked at together.

    Attributes:
        last_seconds: the last step's time.
    """

    def __init__(self, window: int = 20) -> None:
        self._steps: deque[tuple[float, float, int, int, int]] = deque(maxlen=window)
        self._started = time.perf_counter()
        self.last_seconds = 0.0

    def restart(self) -> None:
        """Start the clock of the next step now (after an evaluation or a save)."""
        self._started = time.perf_counter()

    def update(self, num_tokens: int, num_labels: int, num_images: int, waited_seconds: float = 0.0) -> None:
        """Count a step that ended.

        Args:
            num_tokens: number of tokens that are not padding, over all processes.
            num_labels: number of tokens to learn, over all processes.
            num_images: number of images, over all processes.
            waited_seconds: the part of its time in which this process had no batch to work on.
        """
        now = time.perf_counter()
        self.last_seconds = now - self._started
        self._steps.append((self.last_seconds, waited_seconds, num_tokens, num_labels, num_images))
        self._started = now

    def rates(self) -> dict[str, float]:
        """``tokens_per_second``, ``label_tokens_per_second``, ``images_per_second``, and ``data_wait`` of 0 to 1.

        ``data_wait`` is the share of the time in which the step waited for data.
        """
        seconds, waited, tokens, labels, images = (sum(column) for column in zip(*self._steps, strict=True))
        return {
            "tokens_per_second": tokens / seconds,
            "label_tokens_per_second": labels / seconds,
            "images_per_second": images / seconds,
            "data_wait": min(waited / seconds, 1.0),
        }


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory so far: allocated on a GPU, otherwise resident (without workers)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


class JsonLinesFile:
    """A file of one JSON object a line. A full disk or a folder that became read-only does not end the run.

    A line that cannot be written is lost, which is reported once; the file is written again as soon as it can be. A
    line that was cut off (by a full disk, by a killed run) is removed, so that it spoils no other.

    Args:
        path: rows are added to what is there.
        keep: which rows of the file stay; None for all. A line that is not a JSON object does not stay then.

    Raises:
        UserError: if the file cannot be opened now.
    """

    def __init__(self, path: Path, keep: Callable[[dict[str, Any]], bool] | None = None) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._missing = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if keep is not None and path.is_file():
                _keep_rows(path, keep)
            self._open()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"{path} cannot be written ({reason}): fix its folder or choose another") from error

    def write(self, row: dict[str, Any]) -> None:
        """Add one row; it is with the operating system when this returns."""
        data = (json.dumps(row) + "\n").encode()
        try:
            descriptor = self._open()
            end = os.lseek(descriptor, 0, os.SEEK_END)
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        except OSError as error:
            self.close()
            if not self._missing:
                reason = error.strerror or str(error)
                say(f"{self.path} cannot be written ({reason}); training goes on without it")
            self._missing += 1
            return
        if self._missing:
            say(f"{self.path} is written again; {self._missing} rows are missing in it")
            self._missing = 0

    def close(self) -> None:
        """Close the file; another ``write`` opens it again."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            # Without a buffer, because one that could not be written would come again with the next line.
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            _cut_torn_line(self._descriptor)
        return self._descriptor


def _cut_torn_line(descriptor: int) -> None:
    end = os.lseek(descriptor, 0, os.SEEK_END)
    start, block = end, b""
    while start > 0 and b"\n" not in block:
        size = min(start, 4096)
        start -= size
        block = os.pread(descriptor, size, start)
    whole = start + block.rfind(b"\n") + 1
    if whole < end:
        os.ftruncate(descriptor, whole)


def _keep_rows(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    with path.open("rb") as file, atomic_file(path) as temporary, temporary.open("wb") as rewritten:
        for line in file:
            try:
                row = parse_json(line)
            except ValueError:
                continue
            if line.endswith(b"\n") and isinstance(row, dict) and keep(row):
                rewritten.write(line)


class MetricsFile(MetricLoggerInterface):
    """``metrics.jsonl``: one JSON object a step, as ``JsonLinesFile`` writes it.

    Args:
        log_dir: folder, made if absent.
        resume_step: rows of later steps are removed, because the resumed run makes these steps again; None to add to
            what is there.

    Raises:
        UserError: if the file cannot be opened now.
    """

    def __init__(self, log_dir: str | Path, resume_step: int | None = None) -> None:
        self.path = Path(log_dir) / "metrics.jsonl"
        keep = None if resume_step is None else lambda row: _step_of(row) <= resume_step
        self._file = JsonLinesFile(self.path, keep)

    def log(self, name: str, data: Any, step: int) -> None:
        """Write one value."""
        self.log_dict({name: data}, step)

    def log_config(self, config: Any) -> None:
        """Do nothing: the configuration is written next to the run."""

    def log_dict(self, payload: dict[str, Any], step: int) -> None:
        """Write the values of one step; a value that is not finite becomes null, which JSON has."""
        row = {"step": step} | {
            key: value if not isinstance(value, float) or math.isfinite(value) else None
            for key, value in payload.items()
        }
        self._file.write(row)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step_of(row: dict[str, Any]) -> float:
    step = row.get("step")
    return step if isinstance(step, int | float) else math.inf


class Progress:
    """A progress bar on a terminal, a plain line every few seconds in a log file.

    Args:
        total: steps in all.
        done: steps already made.
        every: seconds between lines where standard error is not a terminal.
        silent: show nothing at all; one process of a run is enough.
    """

    def __init__(self, total: int, done: int = 0, every: float = 10.0, silent: bool = False) -> None:
        self._total = total
        self._silent = silent
        self._done = self._first = done
        self._every = every
        self._started = self._printed = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and not silent:
            self._bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True)

    def update(self, values: dict[str, float]) -> None:
        """One step is done; show it with its loss and speed."""
        self._done += 1
        if self._silent:
            return
        text = (
            f"loss {values['loss']:.4f}, {values['tokens_per_second']:,.0f} tokens/s"
            f" ({values['label_tokens_per_second']:,.0f} labels), {values['images_per_second']:,.1f} images/s"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._printed >= self._every or self._done == self._total:
            self._printed = now
            left = (now - self._started) / (self._done - self._first) * (self._total - self._done)
            clock = tqdm.format_interval(left)
            say(f"step {self._done}/{self._total}: {text}, {clock} left")

    def note(self, text: str) -> None:
        """Print a line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif not self._silent:
            say(text)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
