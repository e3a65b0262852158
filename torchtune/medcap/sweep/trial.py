"""One trial: its ``tune run`` processes, started without a shell, watched, pruned and stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import TrialState

from medcap.pipeline.process import ProgramProcess
from medcap.sweep.definition import Definition
from medcap.sweep.objective import Log, NoValueError, final_value, watched
from medcap.sweep.study import FAILED, KILLED, STOPPED, Claim, Study

POLL_SECONDS = 0.25
OUTPUT = "output.txt"
_ASKED_TO_STOP = {128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)}


@dataclass(frozen=True)
class End:
    """How a trial ended: its state, and where that is FAIL the outcome and reason."""

    state: TrialState
    outcome: str | None = None
    reason: str | None = None
    value: float | None = None


def commands(definition: Definition, folder: Path, overrides: Mapping[str, str]) -> list[list[str]]:
    """Return what a trial runs: a command line for the training and then for the test if there is one.

    Args:
        definition: definition of the sweep.
        folder: folder of the trial.
        overrides: what is tried.
    """
    own = {"output_dir": str(folder), "resume_from_checkpoint": "latest"}
    found = [definition.train.words({**overrides, **own}, definition.processes_per_trial)]
    if definition.test is not None:
        found.append(definition.test.words({"output_dir": str(folder), "vision_checkpoint": str(folder)}))
    return found


def run_trial(study: Study, claim: Claim, environment: Mapping[str, str], wait: Callable[[float], bool]) -> End:
    """Run a claimed trial to its end.

    Args:
        study: study that gets intermediate values, and decides whether the trial is still worth its time.
        claim: the trial.
        environment: environment for its processes, in addition to this process's own.
        wait: sleeps for the given seconds; whether the worker has been asked to stop.

    Returns:
        How it ended; nothing is recorded yet.
    """
    definition = study.definition
    key, sign = watched(definition.objective)
    claim.folder.mkdir(parents=True, exist_ok=True)
    log = Log(claim.folder / "log" / "metrics.jsonl", key)
    runs = commands(definition, claim.folder, claim.overrides)
    for position, command in enumerate(runs):
        # summary.json says that a training has ended: only its test was killed.
        if position == 0 and claim.attempt and (claim.folder / "summary.json").is_file():
            continue
        lock = () if claim.lock is None else (claim.lock.fileno(),)
        process = ProgramProcess(command, claim.folder / OUTPUT, environment, lock)
        pruned: str | None = None
        stopping = False
        while process.status() is None:
            stopping = wait(POLL_SECONDS) or stopping
            study.beat(claim)
            for step, value in log.news():
                claim.trial.report(sign * value, step)
                if pruned is None and definition.pruner is not None and claim.trial.should_prune():
                    pruned = f"pruned at step {step}: {key} {value:.6g}"
            if stopping or pruned:
                process.stop()
        status = process.status()
        # A process that has ended meanwhile is not started again.
        if status == 0 and (not stopping or command is runs[-1]):
            continue
        if pruned:
            return End(TrialState.PRUNED, reason=pruned)
        if stopping:
            return End(TrialState.FAIL, STOPPED, "its worker was asked to stop")
        return _failure(status, claim.folder / OUTPUT)
    for step, value in log.news():
        claim.trial.report(sign * value, step)
    try:
        return End(TrialState.COMPLETE, value=final_value(definition.objective, claim.folder))
    except NoValueError as error:
        return End(TrialState.FAIL, FAILED, str(error))


def _failure(status: int | None, output: Path) -> End:
    if status is not None and (status < 0 or status in _ASKED_TO_STOP):
        name = signal.Signals(-status if status < 0 else status - 128).name
        return End(TrialState.FAIL, KILLED, f"killed by {name}")
    return End(TrialState.FAIL, FAILED, f"status {status}: {_last_words(output)}")


def _last_words(output: Path) -> str:
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - 20_000))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    told = [line.removeprefix("medcap: ") for line in lines if line.startswith("medcap: ")]
    return (told or lines or ["it printed nothing"])[-1][:500]
