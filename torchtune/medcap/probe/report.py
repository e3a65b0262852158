"""A probe's results: a table for the terminal, files, and a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medcap.files import make_folder, plain, write_json, write_text
from medcap.probe.run import SIDES, ProbeReport, TargetResult, describe
from medcap.report.intervals import between
from medcap.report.page_frame import Page
from medcap.report.sections import Bar, Card, Cards, Facts, Notices, Table
from medcap.scoring.statistics import Interval

_MOST_PROBLEMS = 5


def text(report: ProbeReport) -> str:
    """Return the results for a terminal, without a last line break."""
    lines = []
    for side in SIDES:
        encoder = getattr(report.encoders, side)
        if encoder is not None:
            lines.append(f"{side + ':':<8} {encoder.name}")
    lines.append(
        f"features: {report.encoders.features}; training {_count(report, 'training')}; test {_count(report, 'test')}"
    )
    for part, found in report.problems.items():
        lines += [f"  {part} image cannot be read: {reason}" for _, reason in found[:_MOST_PROBLEMS]]
        if len(found) > _MOST_PROBLEMS:
            lines.append(f"  ... and {len(found) - _MOST_PROBLEMS:,} more {part} images")
    lines += [f"note: {notice}" for notice in report.notices]
    rows = [["target", "labels", "test", "majority", "", "accuracy", "95 % interval", "balanced", "AUROC", "C"]]
    for result in report.targets:
        rows += _rows(result)
    widths = [max(len(row[position]) for row in rows) for position in range(len(rows[0]))]
    left = (0, 4, 6)
    for row in rows:
        cells = [
            cell.ljust(width) if position in left else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines += [_comparison(result) for result in report.targets if result.difference is not None]
    return "\n".join(lines)


def write(report: ProbeReport, out: Path) -> None:
    """Write ``metrics.json``, ``predictions.jsonl`` and ``report.html``.

    Args:
        report: what was found.
        out: folder, made if it is not there.

    Raises:
        UserError: if it cannot be made.
    """
    make_folder(out)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for result in report.targets for row in _predictions(result)]
    write_text(out / "predictions.jsonl", "".join(lines))
    page(report).write(out / "report.html")
    write_json(out / "metrics.json", plain(describe(report)))


def page(report: ProbeReport) -> Page:
    """Lay out the results as a page."""
    encoders = report.encoders
    names = [f"{side}: {getattr(encoders, side).name}" for side in SIDES if getattr(encoders, side) is not None]
    problems = [
        f"{part} image cannot be read: {reason}" for part, found in report.problems.items() for _, reason in found
    ]
    notices = [*report.notices, *problems]
    values = plain(describe(report))
    return Page(
        "What the features are worth",
        "A linear classifier on frozen features, " + "; ".join(names),
        [
            Cards([_card(result) for result in report.targets]),
            Notices(notices) if notices else None,
            _scores(report),
            _differences(report),
            Facts("Settings and data", {**values["settings"], **values["data"], "seconds": values["seconds"]}),
        ],
        eyebrow="medcap probe",
    )


def _scores(report: ProbeReport) -> Table:
    rows = []
    for result in report.targets:
        for side, own in result.results.items():
            scores = [_bar(own.accuracy), _bar(own.balanced_accuracy), own.auroc and own.auroc.value]
            rows.append([result.target, side, len(result.classes), result.rows, _percent(result.majority), *scores])
    columns = ["target", "encoder", "labels", "images", "majority", "accuracy", "balanced accuracy", "AUROC"]
    note = "Logistic regression; majority: always the most frequent label. Images that cannot be read count as wrong."
    return Table("Scores on the test images", columns, rows, note, wide=True)


def _differences(report: ProbeReport) -> Table | None:
    rows = [
        [result.target, 100 * d.interval.value, *_ends(d.interval), d.p, d.words]
        for result in report.targets
        if (d := result.difference) is not None
    ]
    columns = ["target", "points of accuracy", "low", "high", "p", "in words"]
    return Table("After minus before, image by image", columns, rows, wide=True) if rows else None


def _count(report: ProbeReport, part: str) -> str:
    examples = report.train if part == "training" else report.test
    damaged = len(report.problems[part])
    ending = "count as wrong" if part == "test" else "left out"
    return f"{len(examples):,} images" + (f", {damaged:,} cannot be read ({ending})" if damaged else "")


def _rows(result: TargetResult) -> list[list[str]]:
    lines = []
    for number, (side, own) in enumerate(result.results.items()):
        first = [result.target, f"{len(result.classes)}", f"{result.rows:,}", _percent(result.majority)]
        interval = between(own.accuracy.low, own.accuracy.high, _percent, " - ")
        auroc = "-" if own.auroc is None else f"{own.auroc.value:.3f}"
        scores = [_percent(own.accuracy.value), interval, _percent(own.balanced_accuracy.value), auroc]
        lines.append([*(first if number == 0 else [""] * 4), side, *scores, f"{own.probe.strength:.3g}"])
    return lines


def _comparison(result: TargetResult) -> str:
    compared = result.difference
    assert compared is not None
    interval = compared.interval
    return (
        f"{result.target}: {100 * interval.value:+.1f} points,"
        f" {between(interval.low, interval.high, lambda end: f'{100 * end:+.1f}')},"
        f" p {compared.p:.3g}: {compared.words}"
    )


def _predictions(result: TargetResult) -> list[dict[str, Any]]:
    sides = {side: own.answers.predictions for side, own in result.results.items()}
    labels = next(iter(result.results.values())).answers.labels
    return [
        {
            "image": image,
            "target": result.target,
            "label": str(labels[position]),
            **{side: predictions[position] for side, predictions in sides.items()},
        }
        for position, image in enumerate(result.images)
    ]


def _card(result: TargetResult) -> Card:
    after = result.results["after"].accuracy
    before = result.results.get("before")
    detail = f"majority label {_percent(result.majority)}"
    if before is not None:
        detail = f"before {_percent(before.accuracy.value)}, {detail}"
    return Card(result.target, _percent(after.value), detail, _bar(after))


def _ends(interval: Interval) -> list[float | None]:
    return [None, None] if interval.ends is None else [100 * end for end in interval.ends]


def _bar(interval: Interval) -> Bar:
    return Bar(interval.value, interval.low, interval.high)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
