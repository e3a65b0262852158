"""A task's page: the numbers by each protocol, what is mistaken for what, and what the model says."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.data.images import ImageReader
from medcap.evaluation.report.builder import Bar, Card, Report, Sample
from medcap.evaluation.report.confusion import Confusion, confusion
from medcap.evaluation.report.protocol_table import CONTROL_NAMES, ProtocolLine
from medcap.evaluation.rows import Row
from medcap.evaluation.summary import leaves, value_at

if TYPE_CHECKING:
    from medcap.evaluation.runner import Scored
    from medcap.evaluation.tasks.base import Task

_CURVE_STEPS = 100
_TAGS = ("modality", "question_type", "organ")
_MOST_MAPS = 12
# Scores that are not shares of 1.
_UNBOUNDED = ("CIDEr",)


@dataclass(frozen=True)
class PageData:
    """What a page is made of.

    Attributes:
        task: what was run.
        rows: what was asked.
        own: answers and scores, one for each protocol, the headline's first.
        controls: the same for each control that was run.
        result: what metrics.json holds.
    """

    task: Task
    rows: Sequence[Row]
    own: Sequence[Scored]
    controls: Mapping[str, Sequence[Scored]]
    result: Mapping[str, Any]


def write_page(path: Path, data: PageData, reader: ImageReader | None = None) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        data: what it shows.
        reader: opens images.
    """
    result = data.result
    source = Path(result["dataset"]["source"])
    others = len(result["protocols"]) - 1
    report = Report(
        data.task.title if source.name == data.task.title else f"{data.task.title}: {source.name}",
        f"{len(data.rows):,} rows. The first number is that of protocol “{result['protocol']}”"
        f"{f', {others} more stand below' if others else ''}: {result['description']}.",
        reader=reader,
    )
    report.add_cards(_cards(result))
    report.add_notices([*result["notices"], *_protocol_notices(result)])
    note = "On the right, the same questions without the right image." if result["controls"] else ""
    report.add_protocols("Scores by protocol", _lines(result), note)
    _add_scores(report, result)
    for field, table in result["tables"].items():
        _add_table(report, field, table, _is_share(result["headline"]))
    head = data.own[0]
    maps = _confusions(data.rows, head)
    if maps:
        report.add_confusion("What is taken for what", maps, f"By “{result['protocol']}”.")
    if not _decides(head):
        _add_curve(report, data)
    report.add_gallery("What the model says", _samples(data))
    facts = {f"dataset {key}": value for key, value in result["dataset"].items() if value is not None}
    prompts = {f"prompt of {name}": block["prompt"] for name, block in result["protocols"].items()}
    report.add_facts("How this was made", {**facts, **prompts, **result["settings"]})
    report.write(path)


def _cards(result: Mapping[str, Any]) -> list[Card]:
    head = result["headline"]
    share = _is_share(head)
    cards = [_card(result, _words(head), share, main=True)]
    for control, outcome in result["controls"].items():
        words = f"{_words(head)}, {CONTROL_NAMES.get(control, control)}"
        cards.append(_card(outcome, words, share, head, _fall(outcome.get("fall"), share)))
    failures = f"{result['failures']:,} without an answer, {result['truncated']:,} cut at the token limit"
    cards.append(Card("Rows", f"{result['n']:,}", failures))
    return cards


def _card(
    block: Mapping[str, Any], label: str, share: bool, headline: str = "", detail: str = "", main: bool = False
) -> Card:
    name = headline or block["headline"]
    value, interval = value_at(block["scores"], name), value_at(block["intervals"], name)
    if value is None:
        return Card(label, "–", "no row counts for it", main=main)
    if not share:
        between = f"95 % interval {interval['low']:.3f} to {interval['high']:.3f}" if interval else ""
        return Card(label, f"{value:.3f}", detail or between, main=main)
    span = (interval["low"], value, interval["high"]) if interval else None
    between = f"95 % interval {100 * span[0]:.1f} to {100 * span[2]:.1f}" if span else ""
    return Card(label, f"{100 * value:.1f} %", detail or between, span, main)


def _fall(fall: Mapping[str, float] | None, share: bool) -> str:
    if fall is None:
        return ""
    value, low, high = ((100.0 if share else 1.0) * fall[key] for key in ("value", "low", "high"))
    digits, unit = (1, " points") if share else (3, "")
    words = "the image matters" if low > 0 else "no proof that the image matters"
    return f"Falls by {value:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f}): {words}"


def _protocol_notices(result: Mapping[str, Any]) -> list[str]:
    lines: dict[str, list[str]] = {}
    for name, block in result["protocols"].items():
        for notice in block["notices"]:
            lines.setdefault(notice, []).append(name)
    return [f"{', '.join(names)}: {notice}" for notice, names in lines.items()]


def _lines(result: Mapping[str, Any]) -> list[ProtocolLine]:
    lines = []
    for name, block in result["protocols"].items():
        head = block["headline"]
        value, interval = value_at(block["scores"], head), value_at(block["intervals"], head)
        if value is None:
            continue
        values = {control: value_at(part["scores"], head) for control, part in block["controls"].items()}
        falls = {control: part["fall"] for control, part in block["controls"].items() if "fall" in part}
        lines.append(
            ProtocolLine(
                name,
                head.replace(".", " "),
                value,
                block["description"],
                (interval["low"], interval["high"]) if interval else None,
                {control: number for control, number in values.items() if number is not None},
                {control: (fall["value"], fall["low"], fall["high"]) for control, fall in falls.items()},
                _is_share(head),
            )
        )
    return lines


def _add_scores(report: Report, result: Mapping[str, Any]) -> None:
    """All scores of protocols that have more than their headline."""
    lines = []
    for name, block in result["protocols"].items():
        scores = list(leaves(block["scores"]))
        if len(scores) < 2:
            continue
        for score, value in scores:
            interval = value_at(block["intervals"], score)
            between = f"{interval['low']:.3f}\u2060–\u2060{interval['high']:.3f}" if interval else "–"
            others = [value_at(part["scores"], score) for part in block["controls"].values()]
            lines.append([name, score.replace(".", " ").replace("_", " "), value, between, *others])
    if lines:
        names = [CONTROL_NAMES.get(control, control) for control in result["controls"]]
        report.add_table("All scores", ["protocol", "score", "value", "95 % interval", *names], lines, wide=True)


def _add_table(report: Report, field: str, table: Sequence[Mapping[str, Any]], share: bool) -> None:
    words = field.replace("_", " ")
    lines = []
    for row in table:
        value = Bar(row["value"], row["low"], row["high"]) if share else row["value"]
        right = f"{row['right']:,} / {row['n']:,}" if row["right"] is not None else f"{row['n']:,}"
        lines.append([row[field], value, right])
    decided = any(row["right"] is not None for row in table)
    report.add_table(f"By {words}", [words, "score", "right" if decided else "rows"], lines)


def _confusions(rows: Sequence[Row], scored: Scored) -> dict[str, Confusion]:
    """A map for each modality, of the rows whose answers are right or wrong."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    for row, entry, scores in zip(rows, scored.entries, scored.scores.rows, strict=True):
        if scores.get("correct") is not None and (row.options or row.answer_type == "CLOSED"):
            given = _chosen(row, scores) if "choice" in scores else entry.get(scored.plan.field)
            pairs.setdefault(row.meta.get("modality", "all rows"), []).append((row.references[0], given or ""))
    largest = sorted(pairs, key=lambda name: (-len(pairs[name]), name))[:_MOST_MAPS]
    return {name: confusion(pairs[name]) for name in sorted(largest)}


def _add_curve(report: Report, data: PageData) -> None:
    scored = {"own image": data.own[0], **{name: parts[0] for name, parts in data.controls.items()}}
    values = {
        CONTROL_NAMES.get(name, name): [row["value"] for row in part.scores.rows if row["value"] is not None]
        for name, part in scored.items()
    }
    highest = max((value for own in values.values() for value in own), default=0.0) or 1.0
    limits = [highest * step / _CURVE_STEPS for step in range(_CURVE_STEPS + 1)]
    series = {
        name: [(limit, sum(value >= limit for value in own) / len(own)) for limit in limits]
        for name, own in values.items()
        if own
    }
    head = data.result["headline"]
    report.add_chart(f"Rows that reach a {_words(head)}", series, _words(head), "share of rows")


def _samples(data: PageData) -> list[Sample]:
    head = data.own[0]
    name = data.result["headline"].rpartition(".")[2]
    samples = []
    for row, entry, scores in zip(data.rows, head.entries, head.scores.rows, strict=True):
        decided = scores.get("correct")
        score = None if decided is not None or scores["value"] is None else (name, scores["value"])
        samples.append(
            Sample(
                generated=entry.get(head.plan.field) or "",
                references=row.references,
                image=None if row.problem else row.image,
                question=row.question,
                correct=None if decided is None else bool(decided),
                score=score,
                name=row.id,
                tags=[row.meta[key] for key in _TAGS if row.meta.get(key)],
                problem=entry.get("error"),
                group=row.meta.get("modality", ""),
                options=row.options,
                chosen=_chosen(row, scores),
            )
        )
    return samples


def _chosen(row: Row, scores: Mapping[str, Any]) -> str | None:
    """The option that an answer was taken for; a protocol may tell it by its letter."""
    choice = scores.get("choice")
    place = string.ascii_uppercase.find(choice) if choice and len(choice) == 1 else -1
    if choice not in row.options and 0 <= place < len(row.options):
        return row.options[place]
    return choice


def _decides(scored: Scored) -> bool:
    return any(row.get("correct") is not None for row in scored.scores.rows)


def _is_share(score: str) -> bool:
    return score.rpartition(".")[2] not in _UNBOUNDED


def _words(name: str) -> str:
    words = name.replace(".", " ").replace("_", " ")
    return words if any(letter.isupper() for letter in words) else words.capitalize().replace(" f1", " F1")
