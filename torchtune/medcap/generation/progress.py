"""How far a generation is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_EVERY_SECONDS = 30.0


class Progress:
    """Counts finished requests and their tokens, and shows the rates on stderr.

    Args:
        total: requests of this run.
        enabled: False shows nothing.
        verb: what is done.
    """

    def __init__(self, total: int, enabled: bool = True, verb: str = "generate") -> None:
        self._verb = verb
        self._total = total
        self._requests = 0
        self._tokens = 0
        self._started = time.monotonic()
        self._next_line = self._started + LINE_EVERY_SECONDS
        self._on_terminal = enabled and sys.stderr.isatty()
        self._in_lines = enabled and not self._on_terminal
        self._bar = tqdm(total=total, desc=verb, unit="request", disable=not self._on_terminal)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._in_lines and error is None:
            self._print_line()

    def add(self, num_tokens: int) -> None:
        """Count a finished request.

        Args:
            num_tokens: number of tokens of its answer.
        """
        self.advance_to(self._requests + 1, self._tokens + num_tokens)

    def advance_to(self, requests: int, num_tokens: int) -> None:
        """Show how far several processes are together.

        Args:
            requests: finished requests of all.
            num_tokens: number of tokens of their answers.
        """
        more = requests - self._requests
        self._requests, self._tokens = requests, num_tokens
        if self._on_terminal:
            self._bar.set_postfix_str(f"{self._tokens / self._seconds():.0f} tokens/s", refresh=False)
            self._bar.update(more)
        elif self._in_lines and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_SECONDS
            self._print_line()

    def _seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-9)

    def _print_line(self) -> None:
        seconds = self._seconds()
        print(
            f"{self._verb}: {self._requests} of {self._total} requests in {seconds:.1f} s"
            f" ({self._requests / seconds:.2f} requests/s, {self._tokens / seconds:.0f} tokens/s)",
            file=sys.stderr,
            flush=True,
        )
