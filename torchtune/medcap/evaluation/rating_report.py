"""Relative scores to read: as lines for a terminal, as a page, and as a row of ``results.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.evaluation.predictions import settings_fingerprint
from medcap.evaluation.results_table import append_result
from medcap.report.gallery import Gallery, Sample
from medcap.report.intervals import between
from medcap.report.page_frame import Page
from medcap.report.sections import Card, Cards, Facts, Notices, Table
from medcap.report.text_table import aligned
from medcap.scoring.question import Answer
from medcap.scoring.relative_scores import MEAN_OF_RATIOS, RATIO_OF_MEANS, RELATIVE

ALL = "all"
_MOST_UNRATED = 40
_REPLY_CHARACTERS = 300
_COLUMNS = ("rows", "rated", "reference", "answer", "mean of ratios", "ratio of means")
_NOTE = (
    "Scores of the judge, 1 to 10; relative scores in percent with 95 % intervals that draw images. Mean of ratios is"
    " LLaVA-Med's published relative score. A missing answer counts as 0; an unrated one is in no mean."
)


def groups_of(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the field, the name and the scores of all rows and of each group; the field of all rows is "".

    Args:
        metrics: what ratings_metrics.json holds.
    """
    yield "", ALL, metrics
    for field, table in metrics["tables"].items():
        for line in table:
            yield field, line[field], line


def rating_summary(metrics: Mapping[str, Any]) -> str:
    """Print relative scores.

    Args:
        metrics: what ratings_metrics.json holds.

    Returns:
        A line for the judge, a table of all rows and of each group, then notices.
    """
    lines = [["", *_COLUMNS]]
    for field, name, block in groups_of(metrics):
        lines.append([f"{field.replace('_', ' ')} {name}".strip(), *_cells(block)])
    counts = f"{metrics['n']} answers, {metrics['rated']} rated, {metrics['unrated']} unrated"
    head = f"{metrics['judge']}: {counts}, {metrics['failures']} missing ({metrics['protocol']})"
    return "\n".join(
        [head, *aligned(lines, indent="  "), *_effect(metrics), *(f"  note: {notice}" for notice in metrics["notices"])]
    )


def rating_page(
    metrics: Mapping[str, Any], answers: Sequence[Answer], rows: Sequence[Mapping[str, Any]], title: str
) -> Page:
    """Compose a page of relative scores.

    Args:
        metrics: what ratings_metrics.json holds.
        answers: what was rated.
        rows: those of ratings.jsonl.
        title: what the answers are of.

    Returns:
        The page.
    """
    cards = [
        _card("Mean of ratios", metrics, MEAN_OF_RATIOS, main=True),
        _card("Ratio of means", metrics, RATIO_OF_MEANS),
    ]
    counts = f"{metrics['unrated']:,} unrated, {metrics['failures']:,} missing"
    tables = []
    for field in ("", *metrics["tables"]):
        lines = [[name, *_cells(block)] for own, name, block in groups_of(metrics) if own == field]
        words = field.replace("_", " ")
        columns = [words or "rows", *_COLUMNS] if field else ["", *_COLUMNS]
        tables.append(Table(f"By {words}" if field else "All rows", columns, lines, "" if field else _NOTE, wide=True))
    notices = [*(line.strip() for line in _effect(metrics)), *metrics["notices"]]
    return Page(
        title,
        f"{metrics['n']:,} answers, rated by {metrics['judge']} beside reference answers.",
        [
            Cards([*cards, Card("Rated", f"{metrics['rated']:,}", counts)]),
            Notices(notices) if notices else None,
            *tables,
            _unrated(metrics, rows),
            Gallery("Answers beside the reference answers", _samples(answers, rows)),
            Facts("How this was made", {"prompt": metrics["prompt"], **metrics["dataset"], **metrics["settings"]}),
        ],
    )


def append_ratings(metrics: Mapping[str, Any], folder: Path, answers: Path, table: Path | None) -> Path | None:
    """Add the relative scores to a table of results.

    Args:
        metrics: what ratings_metrics.json holds.
        folder: of the ratings.
        answers: the file that was rated, ``<output_dir>/<task>/predictions.jsonl``.
        table: the table; None for that of the output_dir, if it has one.

    Returns:
        The table that has the row now; None where there is none.
    """
    run = answers.resolve().parent.parent
    if table is None and not (run / "results.csv").is_file():
        return None
    table = run / "results.csv" if table is None else table
    name = metrics["protocol"]
    row: dict[str, Any] = {
        "output_dir": str(answers.parent.parent),
        "task": answers.parent.name,
        "protocol": name,
        "settings": settings_fingerprint(metrics["settings"]),
        "folder": str(folder),
        "dataset": metrics["dataset"]["source"],
        "judge": metrics["judge"],
        "n": metrics["n"],
        "failures": metrics["failures"],
    }
    row |= {f"{name}.{score}": value for score, value in metrics["scores"].items()}
    append_result(table, row)
    return table


def _cells(block: Mapping[str, Any]) -> list[str]:
    scores, intervals = block["scores"], block["intervals"]
    if not scores:
        return [f"{block['n']:,}", "0", "-", "-", "-", "-"]
    relative = [f"{100 * scores[name]:.1f} [{_between(intervals.get(name, {}), ', ')}]" for name in RELATIVE]
    means = [f"{scores[name]:.2f}" for name in ("reference_score", "prediction_score")]
    return [f"{block['n']:,}", f"{block['rated']:,}", *means, *relative]


def _between(interval: Mapping[str, Any], joined: str) -> str:
    return between(interval.get("low"), interval.get("high"), lambda end: f"{100 * end:.1f}", joined)


def _card(label: str, metrics: Mapping[str, Any], name: str, main: bool = False) -> Card:
    interval = metrics["intervals"].get(name, {})
    detail = f"{'95 % interval ' if interval else ''}{_between(interval, ' to ')}"
    return Card(label, f"{100 * metrics['scores'][name]:.1f} %", detail, main=main)


def _effect(metrics: Mapping[str, Any]) -> list[str]:
    effect = metrics["position_effect"]
    if effect is None:
        return []
    move = effect["second_minus_first"]
    ends = between(move["low"], move["high"], "{:+.2f}".format, ", ")
    return [
        f"  order: a text gets {move['value']:+.2f} [{ends}] as Assistant 2 against"
        f" Assistant 1; the better one changes in {100 * effect['preference_changes']:.1f} % of {effect['n']} rows"
    ]


def _unrated(metrics: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """List the replies that gave no two scores."""
    ids = set(metrics["unrated_ids"])
    lines = [
        [row["question_id"], row["order"], str(row["error"] or row["reply"])[:_REPLY_CHARACTERS]]
        for row in rows
        if row["question_id"] in ids and not row["reference_score"]
    ]
    note = f"The first {_MOST_UNRATED} of {len(lines):,}." if len(lines) > _MOST_UNRATED else ""
    columns = ["question", "order", "reply"]
    return Table("Unrated answers", columns, lines[:_MOST_UNRATED], note, wide=True) if lines else None


def _samples(answers: Sequence[Answer], rows: Sequence[Mapping[str, Any]]) -> list[Sample]:
    first = {row["question_id"]: row for row in reversed(rows)}
    samples = []
    for answer in answers:
        question, row = answer.question, first.get(answer.question.id, {})
        given, reference = row.get("prediction_score"), row.get("reference_score")
        samples.append(
            Sample(
                generated=answer.prediction,
                references=question.references,
                images=question.image_names,
                question=question.text,
                score=None if given is None else (f"score, of {reference:g} for the reference", given),
                name=question.id,
                tags=[*question.groups.values()],
                group=question.groups.get("modality", ""),
            )
        )
    return samples
