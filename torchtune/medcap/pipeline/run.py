"""Run the stages of a pipeline one after another, and continue where an earlier start ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from medcap.errors import UserError
from medcap.locks import hold
from medcap.pipeline.definition import Pipeline, Stage, read_pipeline
from medcap.pipeline.process import ProgramProcess
from medcap.pipeline.stages import Stages, State


def run_pipeline(name: str | Path, words: Sequence[str] = (), redo: bool = False) -> dict[str, float]:
    """Run the stages of a pipeline that are not done.

    A stage that was interrupted continues from its newest checkpoint, or from the answers that it has saved.

    Args:
        name: a YAML file, or a packaged pipeline's name.
        words: ``key=value`` overrides of the file's values.
        redo: remove and run again the stages whose settings have changed since an earlier start.

    Returns:
        Stage -> seconds that it took.

    Raises:
        UserError: before anything runs, if a value in the file is wrong, a stage's settings have changed without
            ``redo``, or another process runs the pipeline; later, if a stage fails.
        KeyboardInterrupt: after SIGINT, when the stage has saved and ended.
        SystemExit: after SIGTERM, when the stage has saved and ended.
    """
    pipeline = read_pipeline(name, words)
    try:
        lock = hold(pipeline.folder / ".pipeline.lock")
    except OSError as error:
        raise UserError(
            f"output_dir={pipeline.folder} cannot be written to: {error.strerror}; choose another folder"
        ) from error
    if lock is None:
        raise UserError(f"another process runs this pipeline in {pipeline.folder}: wait until it ends")
    with lock:
        states = _states(pipeline, redo)
        stages = Stages(pipeline.folder / "stages.json")
        for position, stage in enumerate(pipeline.stages, 1):
            if stages.state(stage.name, stage.key, stage.makes) == "done":
                continue
            number = f"{position}/{len(pipeline.stages)}"
            try:
                stages.work(stage.name, partial(_run, stage, states[stage.name], number))
            except UserError:
                # It ended before its first step, so the cause may lie in the file: the mended stage is a new one.
                if stage.resumes and not (stage.folder / "log" / "metrics.jsonl").exists():
                    stages.forget(stage.name)
                raise
    print(_table(pipeline, stages))
    return stages.seconds


def _states(pipeline: Pipeline, redo: bool) -> dict[str, State]:
    """Return the state of each stage before anything runs, and refuse changed stages without ``redo``."""
    known = Stages(pipeline.folder / "stages.json")
    # run_pipeline asks again and prints then.
    with contextlib.redirect_stderr(None):
        states: dict[str, State] = {
            stage.name: known.state(stage.name, stage.key, stage.makes) for stage in pipeline.stages
        }
    changed = next((stage for stage in pipeline.stages if states[stage.name] == "changed"), None)
    if changed is not None and not redo:
        raise UserError(
            f"stage {changed.name} was run with other settings, or after other stages: choose another output_dir,"
            f" or give --redo to run it again with all stages after it (a training's {changed.folder} is removed)"
        )
    return states


def _run(stage: Stage, state: State, number: str) -> None:
    words = list(stage.words)
    if state == "changed" and stage.resumes:
        shutil.rmtree(stage.folder, ignore_errors=True)
    elif state == "changed" and stage.overwrites:
        words.append("overwrite=true")
    elif state == "begun" and stage.resumes:
        words.append("resume_from_checkpoint=latest")
    print(f"[{number} {stage.name}] {' '.join(words)}", file=sys.stderr, flush=True)
    run_words(words, f"stage {stage.name}")


def run_words(words: Sequence[str], what: str) -> None:
    """Run a program to its end, on this process's terminal.

    Args:
        words: the program's command line, ``tune`` or ``medcap`` first.
        what: name of the program, for messages.

    Raises:
        UserError: if the program ends with a status other than 0.
        KeyboardInterrupt: after SIGINT, when the program has ended.
        SystemExit: after SIGTERM, when the program has ended.
    """
    # Where two virtual processors share a core, threads that spin while they wait slow each other down.
    process = ProgramProcess(words, environment={"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")})
    with _passed_on(process) as received:
        status = process.wait()
    if received:
        print(f"{what} was asked to stop; give the same command again to continue", file=sys.stderr)
        if received[-1] == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + received[-1])
    if status:
        ended = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        raise UserError(
            f"{what} {ended}; its own message is above. Fix the cause, then give the same command again to continue"
        )


@contextlib.contextmanager
def _passed_on(process: ProgramProcess) -> Generator[list[int]]:
    """Pass SIGINT and SIGTERM on to a process, and collect them."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        process.send(number)

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # Python sets handlers in the main thread only
                before[number] = signal.signal(number, handle)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _table(pipeline: Pipeline, stages: Stages) -> str:
    rows = [
        (stage.name, f"{stages.seconds[stage.name] / 60:.1f} min", _result(stage), str(stage.folder))
        for stage in pipeline.stages
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n" + "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _result(stage: Stage) -> str:
    """Return the main results of a stage in a few words."""
    found = []
    for folder in stage.writes:
        for file in ("metrics.json", "summary.json"):
            path = folder / file
            if path.is_file():
                found.append(_headline(json.loads(path.read_text(encoding="utf-8")), folder.name))
                break
    return "; ".join(found)


def _headline(values: dict[str, Any], name: str) -> str:
    if "scores" not in values:
        return f"{values.get('steps', 0)} steps"
    numbers = [(key, value) for key, value in values["scores"].items() if isinstance(value, float)]
    return f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in numbers[:3])
