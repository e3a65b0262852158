"""Speed and loss while training: measured, shown, and written a line a step."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, TextIO

import torch
from torchtune.training.metric_logging import MetricLoggerInterface
from tqdm import tqdm

from medcap.data.batch import Batch


class SpeedMeter:
    """Tokens, label tokens and images a second over the last steps.

    Three figures, because each alone misleads: total tokens count the questions and the image, label tokens only
    what is learnt; padding is in neither.
    """

    def __init__(self, window: int = 20) -> None:
        self._steps: deque[tuple[float, int, int, int]] = deque(maxlen=window)
        self._started = time.perf_counter()

    def restart(self) -> None:
        """Start the clock of the next step now (after an evaluation or a save)."""
        self._started = time.perf_counter()

    def update(self, batches: list[Batch]) -> None:
        """A step ended that worked on these batches."""
        now = time.perf_counter()
        tokens = sum(batch.num_tokens for batch in batches)
        labels = sum(batch.num_labels for batch in batches)
        images = sum(batch.num_images for batch in batches)
        self._steps.append((now - self._started, tokens, labels, images))
        self._started = now

    def rates(self) -> dict[str, float]:
        """``tokens_per_second``, ``label_tokens_per_second``, ``images_per_second``."""
        seconds, tokens, labels, images = (sum(column) for column in zip(*self._steps, strict=True))
        return {
            "tokens_per_second": tokens / seconds,
            "label_tokens_per_second": labels / seconds,
            "images_per_second": images / seconds,
        }


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory so far: allocated on a GPU, else resident of this process (workers not counted)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


class MetricsFile(MetricLoggerInterface):
    """``metrics.jsonl``: one JSON object a step, flushed at once.

    Args:
        log_dir: folder, made if absent.
    """

    def __init__(self, log_dir: str | Path) -> None:
        self.path = Path(log_dir) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = self.path.open("a", encoding="utf-8")

    def log(self, name: str, data: Any, step: int) -> None:
        """Write one value."""
        self.log_dict({name: data}, step)

    def log_config(self, config: Any) -> None:
        """The configuration is written beside the run, not here."""

    def log_dict(self, payload: dict[str, Any], step: int) -> None:
        """Write the values of one step; a value that is not finite becomes null, which JSON has."""
        row = {"step": step} | {
            key: value if not isinstance(value, float) or math.isfinite(value) else None
            for key, value in payload.items()
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Progress:
    """A progress bar on a terminal, a plain line every few seconds in a log file.

    Args:
        total: steps in all.
        done: steps already made.
        every: seconds between lines where standard error is not a terminal.
    """

    def __init__(self, total: int, done: int = 0, every: float = 10.0) -> None:
        self._total = total
        self._done = self._first = done
        self._every = every
        self._started = self._printed = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True)

    def update(self, values: dict[str, float]) -> None:
        """One step is done; show it with its loss and speed."""
        self._done += 1
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
            print(f"step {self._done}/{self._total}: {text}, {clock} left", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Print a line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
