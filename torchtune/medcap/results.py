"""Predictions, scores and controls of any number of runs as pandas frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.data.json_text import parse_json
from medcap.errors import UserError
from medcap.evaluation.run_files import TaskFolder, control_rows, find_tasks, row_files, score_rows
from medcap.scoring.agreement import sklearn_metrics

if TYPE_CHECKING:
    import pandas as pd

_PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Results:
    """Frames of several runs; each has the columns ``run`` and ``task``.

    Attributes:
        predictions: a row an answer, with the columns of predictions.jsonl; ``asked`` is the rest of the file's name,
            such as ``shuffled_image``, and "" for the run's own answers. With ``protocol`` also its ``correct`` and
            ``value``.
        judged: a row a verdict or a rating, with the columns of verdicts.jsonl and ratings.jsonl.
        scores: a row a score, of all rows (``group`` "") and of each group, with ``protocol``, ``score``, ``headline``,
            ``n``, ``value``, ``low`` and ``high``.
        controls: a row a score under a control, with ``fall``, ``fall_low`` and ``fall_high`` of the headline.
    """

    predictions: pd.DataFrame
    judged: pd.DataFrame
    scores: pd.DataFrame
    controls: pd.DataFrame


def load(*runs: str | Path | Iterable[str | Path], protocol: str | None = None) -> Results:
    """Read runs.

    Args:
        runs: output folders, or folders of tasks; also lists of them.
        protocol: scoring rule by which each answer of ``predictions`` gets ``correct`` and ``value``.

    Returns:
        The frames.

    Raises:
        UserError: if pandas is not installed, there is no run, one has no scores, a file is damaged, or the protocol
            cannot score the answers.

    Example:
        >>> results = load("results/a", "results/b")
        >>> head = results.scores.query("headline and group == ''")
        >>> head.pivot(index=["task", "protocol"], columns="run", values="value")
    """
    pd = _pandas()
    names = [name for run in runs for name in ([run] if isinstance(run, (str, Path)) else run)]
    if not names:
        raise UserError("load() needs the folder of at least one run")
    folders = find_tasks(names)
    predictions, judged = [], []
    for folder in folders:
        for path in row_files(folder):
            rows = _rows(folder, path, protocol)
            (predictions if path.stem.startswith(_PREDICTIONS) else judged).extend(rows)
    return Results(
        pd.DataFrame(predictions),
        pd.DataFrame(judged),
        pd.DataFrame([row for folder in folders for row in score_rows(folder)]),
        pd.DataFrame([row for folder in folders for row in control_rows(folder)]),
    )


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count which answers to closed questions are taken for which, by scikit-learn.

    Args:
        predictions: rows of :attr:`Results.predictions`. Those with options or the answer_type CLOSED and one
            reference count; texts are compared without case, spaces around them and a final full stop.

    Returns:
        References as rows, answers as columns; "" is a missing answer.

    Raises:
        UserError: if scikit-learn is not installed, or there are no closed answers.

    Example:
        >>> confusion(load("results/a").predictions.query("task == 'vqarad' and asked == ''"))
    """
    pd, metrics = _pandas(), sklearn_metrics()
    closed = predictions.get("answer_type", pd.Series(index=predictions.index, dtype=object)).eq("CLOSED")
    if "options" in predictions:
        closed |= predictions["options"].map(lambda options: isinstance(options, list) and bool(options))
    rows = predictions[closed & predictions["reference"].map(lambda reference: isinstance(reference, str))]
    if rows.empty:
        raise UserError("there are no closed answers with one reference to count")
    wanted, given = ([_plain(text) for text in rows[column]] for column in ("reference", "prediction"))
    labels = sorted({*wanted, *given})
    # scikit-learn warns of a single label.
    counts = metrics.confusion_matrix(wanted, given, labels=labels) if len(labels) > 1 else [[len(wanted)]]
    table = pd.DataFrame(counts, index=labels, columns=labels)
    table = table.loc[[label for label in labels if label in set(wanted)]]
    return table.rename_axis(index="reference", columns="answer")


def _rows(folder: TaskFolder, path: Path, protocol: str | None) -> list[dict[str, Any]]:
    base: dict[str, Any] = {"run": folder.run, "task": folder.task}
    if path.stem.startswith(_PREDICTIONS):
        base["asked"] = path.stem.removeprefix(_PREDICTIONS).lstrip("_")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            value = parse_json(line)
        except ValueError:
            if line.endswith(b"\n"):
                raise UserError(f"{path} has a damaged line: {line[:60]!r}") from None
            continue  # a kill cut off the last line
        if isinstance(value, Mapping):
            # The last row of a question counts: a failure may have been fixed since.
            rows[str(value.get("question_id", len(rows))), str(value.get("order", ""))] = {**base, **value}
    if protocol is not None and "asked" in base:
        _score(path, list(rows.values()), protocol)
    return list(rows.values())


def _score(path: Path, rows: list[dict[str, Any]], protocol: str) -> None:
    from medcap.scoring.answers import read_answers
    from medcap.scoring.protocols.registry import make_protocol

    scored = {row["question_id"]: row for row in make_protocol(protocol).score(read_answers(path)).rows}
    for row in rows:
        own = scored.get(str(row.get("question_id")), {})
        row["correct"], row["value"] = own.get("correct"), own.get("value")


def _plain(text: Any) -> str:
    return text.strip().rstrip(".").lower() if isinstance(text, str) else ""


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise UserError("medcap.results needs pandas: pip install medcap[tables]") from error
    return pandas
