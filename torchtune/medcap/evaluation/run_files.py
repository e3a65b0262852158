"""What runs wrote about their scores, as flat rows: for tables side by side, and for pandas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.data.json_text import parse_json
from medcap.errors import UserError
from medcap.evaluation.summary import leaves, value_at

METRICS, VERDICTS, RATINGS = "metrics", "verdicts", "ratings"
_FILES = {METRICS: "metrics.json", VERDICTS: "verdicts_metrics.json", RATINGS: "ratings_metrics.json"}
_ROW_FILES = ("predictions*.jsonl", "verdicts.jsonl", "ratings.jsonl")
Row = dict[str, Any]


@dataclass(frozen=True)
class TaskFolder:
    """A folder in which a task or a judge wrote.

    Attributes:
        run: the run as the user named it.
        task: name of the folder.
        path: the folder.
        metrics: kind of file -> its content; only those that are there.
    """

    run: str
    task: str
    path: Path
    metrics: Mapping[str, Mapping[str, Any]]


def find_tasks(runs: Sequence[str | Path]) -> list[TaskFolder]:
    """Find the folders of runs.

    Args:
        runs: output folders with one or several tasks, or folders of tasks. A folder that is named twice, by itself
            or by its run, is taken once.

    Returns:
        Those with scores, in the order of the runs.

    Raises:
        UserError: if a run does not exist or has no scores, is a folder of runs, or a file of scores is damaged.
    """
    found: list[TaskFolder] = []
    seen: set[Path] = set()
    for run in runs:
        path = Path(run)
        if not path.is_dir():
            raise UserError(f"{run} is no folder: give a run's output_dir, or the folder of a task in it")
        below = sorted({file.parent for name in _FILES.values() for file in path.glob(f"*/{name}")})
        own = [path] if any(_is_of_task(path / name, bool(below)) for name in _FILES.values()) else []
        folders = own or below
        if not folders:
            raise UserError(f"{run} has no scores: neither it nor a folder in it holds {', '.join(_FILES.values())}")
        inner = next((folder for folder in below if _runs_in(folder)), None)
        if not own and inner is not None:
            raise UserError(f"{run} is a folder of runs: name the runs in it, such as {inner}")
        for folder in folders:
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            contents = {kind: folder / name for kind, name in _FILES.items() if (folder / name).is_file()}
            metrics = {kind: _read(file) for kind, file in contents.items()}
            found.append(TaskFolder(str(run), folder.resolve().name, folder, metrics))
    return found


def score_rows(folder: TaskFolder) -> Iterator[Row]:
    """Yield every score of a folder, those of groups included.

    Yields:
        ``run``, ``task``, ``kind`` (metrics, verdicts, ratings), ``judge`` ("" for metrics), ``protocol``, ``score``,
        ``headline`` (whether it is its protocol's), ``field`` and ``group`` ("" for all rows), ``n``, ``value``,
        ``low`` and ``high`` (None without an interval).
    """
    for kind, metrics in folder.metrics.items():
        blocks = metrics["protocols"].values() if kind == METRICS else [metrics]
        for block in blocks:
            base = {"run": folder.run, "task": folder.task, "kind": kind, "judge": metrics.get("judge", "")}
            base |= {"protocol": block["protocol"]}
            yield from _scores(base, block, block["headline"])
            for field, lines in block["tables"].items():
                for line in lines:
                    group = {**base, "field": field, "group": line[field]}
                    if kind == RATINGS:
                        yield from _scores(group, line, block["headline"])
                    else:
                        interval = {"low": line["low"], "high": line["high"]}
                        head = {"score": block["headline"], "headline": True, "n": line["n"], "value": line["value"]}
                        yield {**group, **head, **interval}


def control_rows(folder: TaskFolder) -> Iterator[Row]:
    """Yield what each protocol's scores are under each control.

    Yields:
        ``run``, ``task``, ``protocol``, ``control``, ``score``, ``headline``, ``value``, ``low``, ``high``, and for the
        headline ``fall``, ``fall_low`` and ``fall_high``: what it loses.
    """
    for block in folder.metrics.get(METRICS, {}).get("protocols", {}).values():
        for control, part in block["controls"].items():
            base = {"run": folder.run, "task": folder.task, "protocol": block["protocol"], "control": control}
            for score, value in leaves(part["scores"]):
                head = score == block["headline"]
                fall = part.get("fall", {}) if head else {}
                lost = {"fall": fall.get("value"), "fall_low": fall.get("low"), "fall_high": fall.get("high")}
                yield {**base, "score": score, "headline": head, "value": value, **_ends(part, score), **lost}


def row_files(folder: TaskFolder) -> list[Path]:
    """Return the files of answers, verdicts and ratings in a folder."""
    return [path for pattern in _ROW_FILES for path in sorted(folder.path.glob(pattern))]


def _scores(base: Row, block: Mapping[str, Any], headline: str) -> Iterator[Row]:
    for score, value in leaves(block["scores"]):
        yield {
            "field": "",
            "group": "",
            **base,
            "score": score,
            "headline": score == headline,
            "n": block["n"] - block.get("unrated", 0),
            "value": value,
            **_ends(block, score),
        }


def _runs_in(folder: Path) -> bool:
    return any(next(folder.glob(f"*/{name}"), None) is not None for name in _FILES.values())


def _is_of_task(file: Path, has_tasks: bool) -> bool:
    """Return whether a folder's own file of scores makes it a task's; beside tasks it may be another program's."""
    if not file.is_file():
        return False
    if not has_tasks:
        return True
    try:
        _read(file)
    except UserError:
        return False
    return True


def _ends(block: Mapping[str, Any], score: str) -> Row:
    interval = value_at(block["intervals"], score) or {}
    return {"low": interval.get("low"), "high": interval.get("high")}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): run the command that wrote it again") from error
    if not isinstance(value, Mapping) or not {"scores", "tables", "headline"} <= value.keys():
        raise UserError(f"{path} is no file of scores of medcap: run the command that wrote it again")
    return value
