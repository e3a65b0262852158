"""The trials of a sweep in Optuna's storage: planned, claimed by one worker each, recovered if their worker dies."""

from __future__ import annotations

import inspect
import math
import socket
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from medcap.errors import UserError
from medcap.instantiate import build, find_component
from medcap.locks import hold, is_held, locked
from medcap.pipeline.overrides import override_text
from medcap.sweep.definition import Definition

BEAT_SECONDS = 30.0
# A trial of another machine counts as lost after this long without a sign; clocks may differ by a part of it.
STALE_SECONDS = 300.0
DEFAULT_SAMPLER = {"_component_": "optuna.samplers.TPESampler", "constant_liar": True}
FAILED, KILLED, STOPPED, SURPLUS = "failed", "killed", "stopped", "surplus"
WORKER_GONE = "its worker was killed"


@dataclass
class Claim:
    """A trial that this worker runs.

    Attributes:
        trial: Optuna's.
        slot: its place in the sweep, 0 to ``trials - 1``; an attempt to repeat a killed trial keeps it.
        attempt: 0 for the first.
        overrides: what is tried, key -> text.
        folder: its own.
        lock: held by the worker and by the processes it starts, for as long as one of them lives.
    """

    trial: optuna.Trial
    slot: int
    attempt: int
    overrides: dict[str, str]
    folder: Path
    lock: TextIO | None
    beaten: float = 0.0


class Study:
    """The shared record of a sweep.

    A trial that is to be repeated becomes a new one in Optuna, with the same ``slot`` and the next ``attempt``; what is
    still to do follows from these alone, so any worker on any machine can plan it, at any time and any number of times.

    Optuna's own heartbeat is for relational storages and its own loop; here a worker leaves a time, and on one machine
    a lock that is released the moment its last process ends.

    Args:
        definition: definition of the sweep.
        create: make it if it is not there.

    Raises:
        UserError: if the storage cannot be opened, holds no such study although it must, or holds one of another sweep.
    """

    def __init__(self, definition: Definition, create: bool = True) -> None:
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.definition = definition
        self.folder = definition.folder
        self._locks = self.folder / "locks"
        self._host = socket.gethostname()
        self._distributions = _distributions(definition)
        pruner = None if definition.pruner is None else build(definition.pruner, key="pruner")
        options: dict[str, Any] = {"pruner": pruner or optuna.pruners.NopPruner(), "sampler": self._sampler(None)}
        with locked(self._locks / "claim"):
            try:
                storage = _open_storage(definition, create)
                if create:
                    direction = definition.objective.direction
                    self._study = optuna.create_study(
                        storage=storage, study_name=definition.name, direction=direction, load_if_exists=True, **options
                    )
                else:
                    self._study = optuna.load_study(storage=storage, study_name=definition.name, **options)
            except KeyError:
                raise UserError(
                    f"{self.folder} holds no sweep to go on with: leave --resume out to start one"
                ) from None
            except UserError:
                raise
            except Exception as error:  # for any database
                location = definition.storage or self.folder
                raise UserError(f"the sweep's storage {location} cannot be opened: {error}") from error
            self._check_same()

    def _check_same(self) -> None:
        own, known = self.definition.fingerprints(), self._study.user_attrs.get("definition")
        if known is None:
            self._study.set_user_attr("definition", own)
            return
        changed = [name for name in own if known.get(name) != own[name]]
        if changed:
            raise UserError(
                f"{self.folder} holds a sweep that was started with another {changed[0]}: restore it, or choose another"
                " output_dir and name"
            )

    def plan(self) -> None:
        """Queue every trial that is missing and every killed one that may be tried again."""
        for slot, attempts in self.attempts().items():
            if not attempts:
                self._queue(slot, 0, self._fixed(slot))
            elif self._is_due_again(attempts):
                self._queue(slot, len(attempts), attempts[-1].params or self._fixed(slot))

    def retry_failed(self) -> int:
        """Queue another attempt of each trial that failed; returns how many."""
        with locked(self._locks / "claim"):
            self._reap()
            failed = {slot: found for slot, found in self.attempts().items() if found and _is(found[-1], "FAIL")}
            for slot, attempts in failed.items():
                self._queue(slot, len(attempts), attempts[-1].params or self._fixed(slot))
        return len(failed)

    def claim(self, worker: str) -> Claim | None:
        """Take the next trial.

        Args:
            worker: name of the worker that takes it, for the table.

        Returns:
            The trial, or None if other workers run all that are left.
        """
        # Two processes could take the same trial from SQLite, which knows no SELECT ... FOR UPDATE.
        with locked(self._locks / "claim"):
            self._reap()
            self.plan()
            while any(_is(trial, "WAITING") for trial in self._trials()):
                self._study.sampler = self._sampler(None)
                trial = self._study.ask()
                slot, attempt = (trial.user_attrs.get(name) for name in ("slot", "attempt"))
                if slot is None or attempt is None or not self._is_first(trial):
                    # Another machine took the last one, or planned the same one, at the same moment.
                    self.end(trial, TrialState.FAIL, SURPLUS, "planned twice")
                    continue
                self._study.sampler = self._sampler(slot)
                trial.set_user_attr("host", self._host)
                trial.set_user_attr("worker", worker)
                lock = hold(self._lock_of(trial.number))
                folder = self.folder / "trials" / f"{slot:04d}"
                claim = Claim(trial, slot, attempt, self._suggest(trial), folder, lock)
                self.beat(claim)
                return claim
        return None

    def beat(self, claim: Claim) -> None:
        """Leave a sign that the trial is being looked after; cheap to call often."""
        now = time.time()
        if now - claim.beaten >= BEAT_SECONDS:
            claim.trial.set_user_attr("seen", now)
            claim.beaten = now

    def end(
        self,
        trial: optuna.Trial,
        state: TrialState,
        outcome: str | None = None,
        reason: str | None = None,
        value: float | None = None,
    ) -> None:
        """Record how a trial ended; one that has been given up as lost meanwhile stays so."""
        try:
            if outcome is not None:
                trial.set_user_attr("outcome", outcome)
            if reason is not None:
                trial.set_user_attr("reason", reason)
            self._study.tell(trial, value, state=state, skip_if_finished=True)
        except optuna.exceptions.UpdateFinishedTrialError:
            return

    def attempts(self) -> dict[int, list[FrozenTrial]]:
        """Slot -> its trials in Optuna, one an attempt and the last one last."""
        found: dict[int, dict[int, FrozenTrial]] = {slot: {} for slot in range(self.definition.trials)}
        for trial in self._trials():
            slot = trial.user_attrs.get("slot")
            if slot in found:
                found[slot].setdefault(trial.user_attrs["attempt"], trial)
        return {slot: [attempts[number] for number in sorted(attempts)] for slot, attempts in found.items()}

    def is_waiting(self) -> bool:
        """Return whether there is anything to claim, after lost trials were recovered."""
        with locked(self._locks / "claim"):
            self._reap()
            self.plan()
        return any(_is(trial, "WAITING") for trial in self._trials())

    def _reap(self) -> None:
        for trial in self._trials():
            if _is(trial, "RUNNING") and self._is_lost(trial):
                self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        if trial.user_attrs.get("host") == self._host:
            held = is_held(self._lock_of(trial.number))
            if held is not None:
                return not held
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return time.time() - trial.user_attrs.get("seen", started) > STALE_SECONDS

    def _is_due_again(self, attempts: Sequence[FrozenTrial]) -> bool:
        if not _is(attempts[-1], "FAIL"):
            return False
        outcomes = [outcome(trial) for trial in attempts]
        if outcomes[-1] == KILLED:
            return outcomes.count(KILLED) <= self.definition.retries
        return outcomes[-1] == STOPPED

    def _is_first(self, trial: optuna.Trial) -> bool:
        attempts = self.attempts().get(trial.user_attrs["slot"], [])
        return trial.number in {attempt.number for attempt in attempts}

    def _queue(self, slot: int, attempt: int, params: dict[str, Any]) -> None:
        self._study.enqueue_trial(params, user_attrs={"slot": slot, "attempt": attempt})

    def _fixed(self, slot: int) -> dict[str, Any]:
        """Return what a grid has at a place; nothing for a search, whose sampler decides when the trial starts."""
        if not self.definition.grid:
            return {}
        sizes, fixed = [len(texts) for texts in self.definition.choices.values()], {}
        for location, (key, texts) in enumerate(self.definition.choices.items()):
            fixed[key] = texts[slot // math.prod(sizes[location + 1 :]) % sizes[location]]
        return fixed

    def _suggest(self, trial: optuna.Trial) -> dict[str, str]:
        suggested: dict[str, str] = {}
        for key in self.definition.keys:
            distribution = self._distributions[key]
            if isinstance(distribution, CategoricalDistribution):
                suggested[key] = str(trial.suggest_categorical(key, distribution.choices))
                continue
            assert isinstance(distribution, IntDistribution | FloatDistribution)
            suggest: Any = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
            options = {"step": distribution.step, "log": distribution.log}
            suggested[key] = override_text(suggest(key, distribution.low, distribution.high, **options), key)
        return suggested

    def _sampler(self, slot: int | None) -> optuna.samplers.BaseSampler:
        """Return a separate sampler for each trial, so that workers do not draw the same values."""
        chosen = {"_component_": "optuna.samplers.RandomSampler"} if self.definition.grid else self.definition.sampler
        node: dict[str, Any] = dict(chosen or DEFAULT_SAMPLER)
        seeded = "seed" in inspect.signature(find_component(node["_component_"], "sampler._component_")).parameters
        if seeded and slot is not None:
            node["seed"] = (self.definition.seed * 1_000_003 + slot) % 2**32  # NumPy's limit
        return build(node, key="sampler")

    def _lock_of(self, number: int) -> Path:
        return self._locks / f"trial_{number}"

    def _trials(self) -> Iterable[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)


def outcome(trial: FrozenTrial) -> str:
    """Return how a trial ended that is no longer a result."""
    return trial.user_attrs.get("outcome", KILLED)


def _is(trial: FrozenTrial, state: str) -> bool:
    return trial.state == TrialState[state]


def _open_storage(definition: Definition, create: bool) -> Any:
    if definition.storage is not None:
        return definition.storage
    # Absolute, because the lock's age is read through it. Unlike SQLite it is safe on network file systems.
    path = (definition.folder / "study.journal").absolute()
    if not create and not path.exists():
        raise KeyError(path)
    lock = JournalFileOpenLock(str(path), grace_period=15)
    return optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _distributions(definition: Definition) -> dict[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {
        key: CategoricalDistribution(texts) for key, texts in definition.choices.items()
    }
    for key, space in definition.ranges.items():
        low, high, step, log = (space[name] for name in ("low", "high", "step", "log"))
        if space["whole"]:
            found[key] = IntDistribution(low, high, log=log, step=step or 1)
        else:
            found[key] = FloatDistribution(float(low), float(high), log=log, step=step)
    return found
