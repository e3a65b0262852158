"""A folder of images as they come -> pictures of one size, as files or in tar shards, with their rows."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medcap.data.images.reader import ImageReader
from medcap.data.images.roots import LimitKeys
from medcap.data.json_text import parse_json
from medcap.data.storage.tar_files import SEPARATOR
from medcap.datasets.preparing.pool import run_tasks
from medcap.datasets.preparing.request import DONE, FAILURES, MAX_BYTES, Request, Summary, ordered
from medcap.datasets.preparing.tasks import Picture, Task, file_tasks, list_folders, shard_tasks
from medcap.datasets.preparing.worker import Outcome, Worker
from medcap.errors import UserError
from medcap.files import atomic_file, write_json
from medcap.locks import lock_file

FORMAT_VERSION = 1
SETTINGS = "prepare.json"
DATA_SUFFIXES = (".json", ".jsonl", ".ndjson")


def prepare_images(request: Request) -> Summary:
    """Prepare images, or continue where an earlier run was stopped.

    ``out`` receives the pictures, in the folders that their sources lie in, or ``images-000000.tar`` and so on; the
    settings in ``prepare.json``; ``prepared.jsonl``, with the sources and the pictures of each task that is done;
    and ``failures.jsonl``, with path and reason of each image that could not be prepared. Rows are written beside,
    or into the shards, naming the prepared pictures. The same sources and settings give the same bytes.

    Args:
        request: what is asked for.

    Returns:
        The summary of the prepared images.

    Raises:
        UserError: if a source or ``out`` cannot be used, or holds pictures of other settings.
    """
    out = request.out.resolve()
    summary = Summary()
    with _claimed(out):
        finish: Callable[[dict[str, str]], list[tuple[str, str]]] | None = None
        first = request.sources[0]
        if first.suffix.lower() in DATA_SUFFIXES and first.is_file():
            # Here, because the layouts of rows bring torch with them.
            from medcap.datasets.preparing.rows import plan_rows

            plan = plan_rows(request, out, summary)
            tasks, reader, failures, finish = plan.tasks, plan.reader, plan.failures, plan.finish
        else:
            tasks, reader, failures = _plan_folders(request, out, summary)
        _check_settings(request, out)
        worker = Worker(reader, request.settings, out)
        paths = _run(worker, tasks, request, out, summary, failures)
        if finish is not None:
            failures += finish(paths)
        _write_lines(out / FAILURES, ({"path": path, "reason": reason} for path, reason in failures))
    summary.failures = len(failures)
    return summary


def _plan_folders(
    request: Request, out: Path, summary: Summary
) -> tuple[Iterable[Task], ImageReader, list[tuple[str, str]]]:
    pictures, summary.others = list_folders(request.sources, out)
    if not pictures:
        raise UserError(f"--source {request.sources[0]} holds no images: name their folder, or a JSON or JSONL file")
    pictures = pictures[: request.limit]
    summary.sources = len(pictures)
    reader = ImageReader(request.sources, request.max_pixels, MAX_BYTES, keys=LimitKeys("--source", "--max-pixels"))
    if request.shards:
        groups = [[picture] for picture in ordered(pictures, request.shuffle)]
        return shard_tasks(groups, request.shard_size), reader, []
    return file_tasks(pictures), reader, []


def _run(
    worker: Worker,
    tasks: Iterable[Task],
    request: Request,
    out: Path,
    summary: Summary,
    failures: list[tuple[str, str]],
) -> dict[str, str]:
    """Do what is not done yet; return the first picture of each source."""
    done = _read_done(out / DONE)
    lines: dict[str, str] = {}  # by task, in their order; text takes far less memory than what it says

    def missing() -> Iterator[Task]:
        for task in tasks:
            line = done.pop(task.name, None)
            earlier = None if line is None else _outcome(line, out)
            if line is not None and earlier is not None and _is_done(task, earlier, out):
                lines[task.name] = line
                summary.already += len(earlier.pictures)
                bar.update(_num_sources(task))
            else:
                lines[task.name] = ""  # holds its place
                numbers[task.name] = _num_sources(task)
                yield task

    numbers: dict[str, int] = {}
    with (
        tqdm(total=summary.sources, desc="preparing images", unit="image", delay=1, mininterval=1, disable=None) as bar,
        (out / DONE).open("a", encoding="utf-8") as log,
    ):
        for outcome in run_tasks(worker, missing(), request.workers):
            lines[outcome.name] = json.dumps(asdict(outcome), ensure_ascii=False)
            log.write(lines[outcome.name] + "\n")
            log.flush()
            bar.update(numbers.pop(outcome.name))
    # Tasks that are not of this run, as when only the first images were asked for, stay known.
    with atomic_file(out / DONE) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in (*lines.values(), *done.values())), encoding="utf-8")
    firsts: dict[str, str] = {}
    for line in lines.values():
        outcome = _outcome(line, out)
        failures += outcome.failures
        summary.prepared += len(outcome.pictures)
        if summary.rows is not None:
            summary.rows += outcome.rows
        for source, names in outcome.pictures:
            summary.pictures += len(names)
            firsts[source] = names[0]
    return firsts


def _num_sources(task: Task) -> int:
    return sum(isinstance(entry, Picture) for entry in task.entries)


def _is_done(task: Task, outcome: Outcome, out: Path) -> bool:
    if outcome.fingerprint != task.fingerprint():
        return False
    if task.is_shard:  # not made again for the sake of images that failed: all others would have to be read again
        return (out / task.name).is_file()
    return not outcome.failures and all((out / name).is_file() for _, names in outcome.pictures for name in names)


def _outcome(line: str, out: Path) -> Outcome:
    try:
        values = parse_json(line)
        for key in ("pictures", "failures"):
            values[key] = [(source, what) for source, what in values[key]]
        return Outcome(**values)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{out / DONE} is damaged: start over with --overwrite") from None


def _read_done(path: Path) -> dict[str, str]:
    """Return what an earlier run noted, a line a task; one that a kill cut off is removed from the file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    lines = content[:whole].decode("utf-8", "replace").split("\n")[:-1]
    return {_outcome(line, path.parent).name: line for line in lines}


def _check_settings(request: Request, out: Path) -> None:
    """Make sure that ``out`` is ours, and holds nothing of other settings."""
    asked = {"format_version": FORMAT_VERSION, **asdict(request.settings), "shards": request.shards}
    if request.shards:
        asked |= {"shard_size": request.shard_size, "shuffle": request.shuffle}
    asked["sources"] = [str(source.resolve()) for source in request.sources]
    if request.settings.view.fit is None:
        del asked["view"]["fit"]  # as the folders of earlier versions have it
    asked = json.loads(json.dumps(asked))
    path = out / SETTINGS
    if path.is_file():
        try:
            found = parse_json(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        found = found if isinstance(found, dict) else {}
        if found != asked and not request.overwrite:
            other = [
                f"{key} {found.get(key)} (asked for {value})" for key, value in asked.items() if found.get(key) != value
            ]
            raise UserError(
                f"--out {out} holds images of other settings: {', '.join(other)}; name another folder, or start over"
                " with --overwrite"
            )
        if request.overwrite:
            _remove_earlier(out)
    elif any(not path.name.endswith(".partial") for path in out.iterdir()):
        raise UserError(f"--out {out} holds other files: name a new or an empty folder")
    write_json(path, asked)


def _remove_earlier(out: Path) -> None:
    """Remove the pictures that are noted, and the notes; nothing else."""
    try:
        lines = list(_read_done(out / DONE).values())
    except UserError:
        lines = []
    for line in lines:
        for _, names in _outcome(line, out).pictures:
            for name in names:
                path = (out / name.partition(SEPARATOR)[0]).resolve()
                if path.is_relative_to(out):
                    path.unlink(missing_ok=True)
    for name in (DONE, FAILURES):
        (out / name).unlink(missing_ok=True)


def _write_lines(path: Path, values: Iterable[Any]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


@contextlib.contextmanager
def _claimed(out: Path) -> Generator[None]:
    """Make the folder, and keep other processes from preparing into it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error
    try:
        if lock_file(descriptor) is False:
            raise UserError(f"--out {out}: another process prepares images into it: wait for it")
        yield
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror or error}") from error
    finally:
        os.close(descriptor)
