"""The processes that answer questions together: a queue of parts, and a sign of life of each process.

The queue is in torchrun's store. It ends with the run, so nothing of a killed run has to be cleared away, and it needs
neither locks nor clocks that agree. Answers are not in it: they are in files, which survive.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator

import torch.distributed as dist

from medcap.errors import UserError
from medcap.processes import FailedElsewhere, Processes

POLL_SECONDS = 0.05
BEAT_SECONDS = 1.0
# A process without a sign of life for so long has ended. One that only slept makes answers that are there already.
PATIENCE_SECONDS = 60.0
_LOST = "answers so far are kept, and the same command goes on"


class Team:
    """The processes of a run that answer questions together.

    Args:
        processes: more than one, with a store.
        batch: questions that a process answers together.
        patience: seconds without a sign of life after which the others answer a process's questions.

    Attributes:
        rank: rank of this process.
        size: how many there are.
        batch: as given.
        signs: says which processes live.
    """

    def __init__(self, processes: Processes, batch: int = 1, patience: float = PATIENCE_SECONDS) -> None:
        if processes.store is None:
            raise ValueError("a team has several processes and a store")
        self.rank, self.size, self.batch = processes.rank, processes.size, batch
        self._store = dist.PrefixStore("team", processes.store)
        self.signs = SignsOfLife(self._store, self.rank, patience)
        self._phases = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that joins the answers and writes the scores."""
        return self.rank == 0

    def next_phase(self) -> Phase:
        """Return the next thing that the processes do together; each makes its calls in the same order."""
        self._phases += 1
        return Phase(self, dist.PrefixStore(f"phase/{self._phases}", self._store))

    def finish(self) -> None:
        """Wait, on the first process, until the others have done their part; on the others, say so."""
        phase = self.next_phase()
        phase.end()
        if self.is_main:
            phase.wait_for_all()


class SignsOfLife:
    """Tells the other processes that this one lives, and which of them do.

    Args:
        store: common to all.
        rank: rank of this process.
        patience: seconds without a sign after which a process counts as ended.
    """

    def __init__(self, store: dist.Store, rank: int, patience: float) -> None:
        self._store, self._rank, self._patience = store, rank, patience
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._over = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name="signs-of-life").start()

    def stop(self) -> None:
        """Give no further sign."""
        self._over.set()

    def has_ended(self, rank: int) -> bool:
        """Return whether a process has given no sign for as long as this one has watched, and longer than patience."""
        key, now = f"alive/{rank}", time.monotonic()
        value = self._store.get(key) if self._store.check([key]) else b""
        before = self._seen.get(rank)
        if before is None or before[0] != value:
            self._seen[rank] = value, now
            return False
        return now - before[1] > self._patience

    def _beat(self) -> None:
        count = 0
        # The store ends with the run.
        with contextlib.suppress(RuntimeError, OSError):
            while not self._over.is_set():
                count += 1
                self._store.set(f"alive/{self._rank}", str(count))
                self._over.wait(min(BEAT_SECONDS, self._patience / 4))


class Phase:
    """One thing that all processes do, such as answering the questions of one file.

    Args:
        team: its processes.
        store: its own part of the store.
    """

    def __init__(self, team: Team, store: dist.Store) -> None:
        self.team = team
        self._store = store

    def say(self, name: str, value: str) -> None:
        """Let the others know something."""
        with _reachable():
            self._store.set(name, value)

    def hear(self, name: str) -> str:
        """Wait for what the first process says.

        Raises:
            FailedElsewhere: if a process gave up.
            UserError: if the first process ended.
        """

        def said() -> bool:
            if self._store.check([name]):
                return True
            if self.team.signs.has_ended(0):
                raise UserError(f"the first process of this run ended: {_LOST}")
            return False

        self._wait(said)
        return self._store.get(name).decode()

    def parts(self, count: int) -> Generator[int]:
        """Take parts from the queue until all of them are done, by this process or another.

        Args:
            count: how many there are; the same on every process.

        Yields:
            Number of a part, which is done when the next one is asked for. A part of a process that has ended is given
            to another one.

        Raises:
            FailedElsewhere: if a process gave up.
        """
        undone = list(range(count))
        fresh = 0
        # An error of who uses the part is not raised in here.
        with _reachable():
            while True:
                self.refuse_given_up()
                taken = None
                while fresh < count and taken is None:
                    taken = fresh if self._claim(fresh, "") else None
                    fresh += 1
                if taken is None:
                    undone = [part for part in undone if not self._store.check([f"done/{part}"])]
                    if not undone:
                        return
                    taken = self._left_behind(undone)
                if taken is None:
                    time.sleep(POLL_SECONDS)
                    continue
                yield taken
                self._store.set(f"done/{taken}", "1")

    def count(self, name: str, more: int) -> int:
        """Add to a number that all processes share, and return it."""
        with _reachable():
            return self._store.add(f"number/{name}", more)

    def give_up(self, reason: str) -> None:
        """Have all processes end this phase.

        Args:
            reason: why, for the user.
        """
        with _reachable():
            if not self._store.check(["given_up"]):
                self._store.set("given_up", reason)

    def refuse_given_up(self) -> None:
        """See that no process has given up.

        Raises:
            FailedElsewhere: with its reason, if one has.
        """
        if self._store.check(["given_up"]):
            raise FailedElsewhere(self._store.get("given_up").decode())

    def end(self, written: int = 0) -> None:
        """Say that this process has nothing more to write.

        Args:
            written: bytes of its file of answers.
        """
        with _reachable():
            self._store.set(f"ended/{self.team.rank}", str(written))

    def wait_for_all(self) -> dict[int, int]:
        """Wait until every process has called :meth:`end`, or has itself ended.

        Returns:
            For each of the others that has called it, what it has written.
        """
        waited_for = set(range(self.team.size)) - {self.team.rank}
        written: dict[int, int] = {}

        def all_ended() -> bool:
            for rank in list(waited_for):
                if self._store.check([f"ended/{rank}"]):
                    written[rank] = int(self._store.get(f"ended/{rank}"))
                    waited_for.discard(rank)
                elif self.team.signs.has_ended(rank):
                    waited_for.discard(rank)
            return not waited_for

        self._wait(all_ended, refuse=False)
        return written

    def _claim(self, part: int, owner: str) -> bool:
        """Take a part over from its owner, "" for none; only one process succeeds."""
        own = str(self.team.rank)
        return self._store.compare_set(f"owner/{part}", owner, own).decode() == own

    def _left_behind(self, undone: list[int]) -> int | None:
        for part in undone:
            owner = self._store.get(f"owner/{part}").decode()
            if int(owner) != self.team.rank and self.team.signs.has_ended(int(owner)) and self._claim(part, owner):
                return part
        return None

    def _wait(self, done: Callable[[], bool], refuse: bool = True) -> None:
        # In Python, not in the store's own wait, so that a signal is handled at once.
        with _reachable():
            while not done():
                if refuse:
                    self.refuse_given_up()
                time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _reachable() -> Generator[None]:
    """Say in the user's words that the store has ended."""
    try:
        yield
    except RuntimeError as error:  # the errors of torch's store are
        raise UserError(f"the processes of this run cannot reach each other any more: {_LOST}") from error
