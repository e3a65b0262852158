"""The file of answers of several processes.

The first process appends to the file itself, each other one to a file of its own beside it (``part_path``). When all
questions are answered, the first process joins them in the order of the questions, so the file is the same however many
processes there were. A part that a killed run left is taken in when the file is opened again, by any number of
processes. All processes must see one folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from medcap.errors import UserError
from medcap.evaluation.predictions import PredictionFile, part_path
from medcap.evaluation.shared.division import divide
from medcap.evaluation.shared.team import POLL_SECONDS, Phase, Team
from medcap.generation.progress import Progress
from medcap.generation.request import Request
from medcap.locks import lock_file
from medcap.processes import FailedElsewhere

_COUNT_SECONDS = 1.0
# Network file systems show a file of another node only after a while.
_VISIBLE_SECONDS = 90.0


class NotShared(UserError):
    """The processes do not have the same files, so they cannot go on together."""


def open_shared(
    path: Path, settings: Mapping[str, Any], overwrite: bool, keep_old: bool, team: Team
) -> SharedPredictions:
    """Open the file of answers that several processes fill; each calls this in the same order.

    Args:
        path: the file.
        settings: as for ``PredictionFile``.
        overwrite: drop what is there.
        keep_old: keep rows that were made under other settings.
        team: the processes.

    Returns:
        The file. On all processes it holds the same rows when it is opened and after ``settle``.

    Raises:
        FailedElsewhere: if the first process cannot open it, which raises the reason.
        NotShared: if this process does not see the first one's file.
        UserError: see ``PredictionFile``.
    """
    kind = _First if team.is_main else _Further
    return kind(path, settings, overwrite, keep_old, team.next_phase())


class SharedPredictions(PredictionFile, ABC):
    """What the files of the first process and of the others have in common.

    Args:
        path: the file of all answers.
        settings: as for ``PredictionFile``.
        overwrite: drop what is there.
        keep_old: keep rows that were made under other settings.
        phase: in which it is filled.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], overwrite: bool, keep_old: bool, phase: Phase) -> None:
        self._phase, self._first_phase, self._said_end = phase, True, False
        self._counts = [0, 0, 0]  # answers of this process that it has not told of: rows, their tokens, without error
        self._told = time.monotonic()
        self._progress: Progress | None = None
        try:
            super().__init__(path, settings, overwrite, keep_old)
        except UserError as error:
            self._give_up(error)
            self._end()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        # [Contract] before it says that it has ended: otherwise the first process would join what is there and go on.
        if isinstance(error, UserError):
            self._give_up(error)
        self.close()
        if isinstance(error, UserError):
            self._end()

    def _give_up(self, error: UserError) -> None:
        """Have the others end this phase too: they would wait for this process's answers."""
        if not isinstance(error, FailedElsewhere):
            self._phase.give_up(str(error))

    def _end(self, written: int = 0) -> None:
        if not self._said_end:
            self._phase.end(written)
        self._said_end = True

    def _visible(self, path: Path, size: int, whole: bool = False) -> bytes:
        """Return a file's first bytes once this process sees them.

        Args:
            path: the file; nothing is returned if it is not there and ``size`` is 0.
            size: bytes that another process wrote.
            whole: return what is behind them too.

        Raises:
            NotShared: if they are not seen for long.
        """
        end = time.monotonic() + _VISIBLE_SECONDS
        while True:
            content = path.read_bytes() if path.exists() else b""
            if len(content) >= size:
                return content if whole else content[:size]
            if time.monotonic() > end:
                raise NotShared(
                    f"rank {self._phase.team.rank} does not see {path} as another process wrote it: output_dir must be"
                    " one folder that all nodes see"
                )
            time.sleep(POLL_SECONDS)

    def append(self, row: Mapping[str, Any]) -> None:
        """See ``PredictionFile``."""
        super().append(row)
        self._counts[0] += 1
        self._counts[1] += row.get("num_tokens") or 0
        self._counts[2] += row.get("error") is None
        if self._progress is not None and time.monotonic() - self._told > _COUNT_SECONDS:
            self._tell()

    def shares(
        self, pending: Sequence[int], requests: Sequence[Request | str], extra: Sequence[Any]
    ) -> Generator[list[int]]:
        """Take parts of the questions from the common queue until all are answered; see ``PredictionFile``."""
        if not self._first_phase:
            self._phase = self._phase.team.next_phase()
        self._first_phase = self._said_end = False
        team = self._phase.team
        parts = divide(requests, pending, extra, team.size, team.batch)
        names = [request.id if isinstance(request, Request) else request for request in requests]
        self._begin(hashlib.sha256(json.dumps([names, parts]).encode()).hexdigest())
        self._counts = [0, 0, 0]
        with Progress(len(pending), team.is_main) as self._progress, closing(self._phase.parts(len(parts))) as numbers:
            try:
                for number in numbers:
                    yield parts[number]
                    self._tell()
                self._tell()
            finally:
                self._progress = None

    def any_answered(self) -> bool:
        """See ``PredictionFile``."""
        return self._phase.count("answered", 0) > 0

    def _tell(self) -> None:
        """Tell the others how much this process has answered, and show how much all have."""
        rows, tokens, answered = self._counts
        self._counts, self._told = [0, 0, 0], time.monotonic()
        self._phase.count("answered", answered)
        rows, tokens = self._phase.count("rows", rows), self._phase.count("tokens", tokens)
        if self._progress is not None:
            self._progress.advance_to(rows, tokens)

    @abstractmethod
    def _begin(self, questions: str) -> None:
        """See that all processes ask the same, and make ready for answers.

        Args:
            questions: hash of what is asked, and how it is divided.
        """


class _First(SharedPredictions):
    """The file of the first process."""

    _asks = False

    def _open(self, overwrite: bool) -> None:
        super()._open(overwrite)
        self._phase.say("opened", str(self._file.tell()))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        super().__exit__(kind, error)
        # The file may be opened again at once, which takes in the others' answers.
        if self._asks and isinstance(error, UserError):
            self._phase.wait_for_all()

    def _begin(self, questions: str) -> None:
        self._phase.say("questions", questions)
        self._asks = True

    def settle(self, fingerprints: Iterable[str]) -> None:
        """Join the answers of all processes; see ``PredictionFile``."""
        written = self._phase.wait_for_all()
        self._phase.refuse_given_up()
        for rank in range(1, self._phase.team.size):
            path = part_path(self.path, rank)
            content = self._visible(path, written.get(rank, 0), whole=True)
            self._take(io.BytesIO(content), path)
        super().settle(fingerprints)
        for rank in range(1, self._phase.team.size):
            part_path(self.path, rank).unlink(missing_ok=True)
        self._phase.say("joined", str(self.path.stat().st_size))
        self._asks = False


class _Further(SharedPredictions):
    """The file of another process: it knows all rows, and writes its own."""

    def _open(self, overwrite: bool) -> None:
        self._file = io.BytesIO()  # rows that need no model are written by the first process
        self._read(io.BytesIO(self._visible(self.path, int(self._phase.hear("opened")))), self.path)

    def _begin(self, questions: str) -> None:
        rank = self._phase.team.rank
        if self._phase.hear("questions") != questions:
            raise NotShared(
                f"rank {rank} has other questions for {self.path} than the first process: the data files and the"
                " configuration must be the same on all nodes"
            )
        path = part_path(self.path, rank)
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise UserError(f"output_dir: {path} cannot be written: {error.strerror}") from error
        if lock_file(self._file) is False:
            raise UserError(f"{path} is being written by another run: set another output_dir=...")

    def settle(self, fingerprints: Iterable[str]) -> None:
        """Wait until the first process has joined the answers, and read them; see ``PredictionFile``."""
        self.close()
        self.rows = {}
        self._read(io.BytesIO(self._visible(self.path, int(self._phase.hear("joined")), whole=True)), self.path)

    def close(self) -> None:
        """See ``PredictionFile``."""
        if isinstance(self._file, io.BytesIO):
            return
        written = self._file.tell()
        super().close()
        self._file = io.BytesIO()
        self._end(written)
