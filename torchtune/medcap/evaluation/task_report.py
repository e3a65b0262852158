"""A task's page, ``report.html``: the scores by each protocol, which answers are confused, and what the model says."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.data.images.reader import ImageReader
from medcap.evaluation.box_report import BoxResult, accuracy_charts, read_boxes
from medcap.evaluation.controls import CONTROLS
from medcap.evaluation.mask_report import MaskResult, mask_charts, read_masks
from medcap.evaluation.scored import Scored
from medcap.evaluation.summary import leaves, shown_reliance, value_at
from medcap.report.charts import LineChart
from medcap.report.confusion import ConfusionMaps, confusion
from medcap.report.gallery import Gallery, Sample
from medcap.report.intervals import between
from medcap.report.page_frame import Page
from medcap.report.protocol_table import CONTROL_NAMES, ProtocolLine, ProtocolTable
from medcap.report.sections import Bar, Card, Cards, Facts, Notices, Table
from medcap.scoring.image_reliance import NAMES
from medcap.scoring.question import Question
from medcap.scoring.replies.final_reply import final_reply

if TYPE_CHECKING:
    from medcap.evaluation.tasks.base import Task

_OWN = "own image"
_CURVE_STEPS = 100
_TAGS = ("modality", "question_type", "organ")
_MOST_MAPS = 12
# Scores that are not shares of 1.
_UNBOUNDED = ("CIDEr",)


@dataclass(frozen=True)
class TaskResult:
    """A task that was run and scored.

    Attributes:
        task: what was run.
        rows: what was asked.
        own: answers and scores, one for each protocol, the headline's first.
        controls: controls in the same form, for each control that was run.
        metrics: what metrics.json holds.
    """

    task: Task
    rows: Sequence[Question]
    own: Sequence[Scored]
    controls: Mapping[str, Sequence[Scored]]
    metrics: Mapping[str, Any]


def task_report(result: TaskResult, reader: ImageReader | None = None) -> Page:
    """Compose the page.

    Args:
        result: what it shows.
        reader: opens images; None shows only those in their file's own folder.

    Returns:
        The page.
    """
    metrics = result.metrics
    title, source = result.task.title, Path(metrics["dataset"]["source"]).name
    others = len(metrics["protocols"]) - 1
    notices = [*metrics["notices"], *_protocol_notices(metrics)]
    scored = {_OWN: result.own[0]} | {
        CONTROL_NAMES.get(name, name): parts[0] for name, parts in result.controls.items()
    }
    boxes, masks = read_boxes(result.rows, scored), read_masks(result.rows, scored)
    return Page(
        title if source == title else f"{title}: {source}",
        f"{len(result.rows):,} rows. The first number is that of protocol “{metrics['protocol']}”"
        f"{f', {others} more stand below' if others else ''}: {metrics['description']}.",
        [
            Cards(_cards(metrics)),
            Notices(notices) if notices else None,
            ProtocolTable(
                "Scores by protocol",
                _protocol_lines(metrics),
                "On the right, the same questions without the right image or question." if metrics["controls"] else "",
            ),
            _image_reliance(metrics),
            _all_scores(metrics),
            *(_group_table(field, table, _is_share(metrics["headline"])) for field, table in metrics["tables"].items()),
            _confusions(result),
            None if _decides(result.own[0]) else _curve(result),
            *accuracy_charts(result.rows, boxes),
            *mask_charts(masks),
            Gallery("What the model says", _samples(result, boxes, masks), reader=reader, worst_first=bool(masks)),
            Facts("How this was made", _facts(metrics)),
        ],
    )


@dataclass(frozen=True)
class _Score:
    """A score in a block of metrics.json; None where no row counts for it, or no interval was computed."""

    value: float | None
    interval: tuple[float, float] | None


def _read(block: Mapping[str, Any], name: str) -> _Score:
    interval = value_at(block["intervals"], name)
    return _Score(value_at(block["scores"], name), interval and (interval["low"], interval["high"]))


def _cards(metrics: Mapping[str, Any]) -> list[Card]:
    head = metrics["headline"]
    share = _is_share(head)
    cards = [_card(_words(head), _read(metrics, head), share, main=True)]
    for control, block in metrics["controls"].items():
        label = f"{_words(head)}, {CONTROL_NAMES.get(control, control)}"
        cards.append(_card(label, _read(block, head), share, _fall(control, block.get("fall"), share)))
    failures = f"{metrics['failures']:,} without an answer, {metrics['truncated']:,} cut at the token limit"
    return [*cards, Card("Rows", f"{metrics['n']:,}", failures)]


def _card(label: str, score: _Score, share: bool, detail: str = "", main: bool = False) -> Card:
    if score.value is None:
        return Card(label, "–", "no row counts for it", main=main)
    factor, digits = (100, 1) if share else (1, 3)
    if score.interval and not detail:
        low, high = (f"{factor * bound:.{digits}f}" for bound in score.interval)
        detail = f"95 % interval {low} to {high}"
    value = f"{factor * score.value:.{digits}f}{' %' if share else ''}"
    return Card(label, value, detail, Bar(score.value, *score.interval) if share and score.interval else None, main)


def _fall(control: str, fall: Mapping[str, Any] | None, share: bool) -> str:
    if fall is None:
        return ""
    factor, digits, unit = (100.0, 1, " points") if share else (1.0, 3, "")
    value, low, high = fall["value"], fall["low"], fall["high"]
    apart = low is not None and low > 0
    words = "the image matters" if apart else "no proof that the image matters"
    if control not in CONTROLS:
        words = "more than the control" if apart else "no proof that it is more than the control"
    # A score that rises shows the ends of its rise in rising order.
    turn, verb = (-1.0, "Rises") if value < 0 else (1.0, "Falls")
    low, high = (high, low) if value < 0 else (low, high)
    ends = between(low, high, lambda end: f"{turn * factor * end + 0.0:.{digits}f}")
    return f"{verb} by {abs(factor * value):.{digits}f}{unit} ({ends}): {words}"


def _protocol_notices(metrics: Mapping[str, Any]) -> list[str]:
    lines: dict[str, list[str]] = {}
    for name, block in metrics["protocols"].items():
        for notice in block["notices"]:
            lines.setdefault(notice, []).append(name)
    return [f"{', '.join(names)}: {notice}" for notice, names in lines.items()]


def _protocol_lines(metrics: Mapping[str, Any]) -> list[ProtocolLine]:
    lines = []
    for name, block in metrics["protocols"].items():
        head = block["headline"]
        score = _read(block, head)
        if score.value is None:
            continue
        values = {control: _read(part, head).value for control, part in block["controls"].items()}
        own = {control: _read(part["own"], head).value for control, part in block["controls"].items() if "own" in part}
        falls = {control: part["fall"] for control, part in block["controls"].items() if "fall" in part}
        lines.append(
            ProtocolLine(
                protocol=name,
                score=head.replace(".", " "),
                value=score.value,
                description=block["description"],
                interval=score.interval,
                controls={control: value for control, value in values.items() if value is not None},
                falls={control: (fall["value"], fall["low"], fall["high"]) for control, fall in falls.items()},
                own={control: value for control, value in own.items() if value is not None},
                share=_is_share(head),
            )
        )
    return lines


def _image_reliance(metrics: Mapping[str, Any]) -> Table | None:
    """Show the published measures of how much the answers depend on the image, for each protocol that has them."""
    lines = []
    for name, block in metrics["protocols"].items():
        found = shown_reliance(block["image_reliance"])
        if found:
            lines.append([name, *(_with_interval(*found[measure]) if measure in found else None for measure in NAMES)])
    note = (
        "Visual reliance score: what is lost with another image. Image sensitivity: answers that change without their"
        " own image. Hallucinated visual reasoning: claims to see something beside an answer that does not change."
    )
    return Table("Does it look?", ["protocol", *NAMES.values()], lines, note, wide=True) if lines else None


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    ends = between(low, high, "{:.3f}".format, "\u2060–\u2060")
    return f"{value:.3f} ({ends})".replace("-", "−")


def _all_scores(metrics: Mapping[str, Any]) -> Table | None:
    """All scores of protocols that have more than their headline."""
    lines = []
    controls = dict.fromkeys(name for block in metrics["protocols"].values() for name in block["controls"])
    for name, block in metrics["protocols"].items():
        scores = list(leaves(block["scores"]))
        for score, value in scores if len(scores) > 1 else ():
            interval = _read(block, score).interval
            between = f"{interval[0]:.3f}\u2060–\u2060{interval[1]:.3f}" if interval else "–"
            parts = [block["controls"].get(control) for control in controls]
            numbers = [value, *(part and _read(part, score).value for part in parts)]
            # Sentence BLEU without a common pair of words is 1e-154 or less.
            own, *others = (0.0 if isinstance(it, float) and abs(it) < 5e-10 else it for it in numbers)
            lines.append([name, score.replace(".", " ").replace("_", " "), own, between, *others])
    names = [CONTROL_NAMES.get(str(control), str(control)) for control in controls]
    return (
        Table("All scores", ["protocol", "score", "value", "95 % interval", *names], lines, wide=True)
        if lines
        else None
    )


def _group_table(field: str, table: Sequence[Mapping[str, Any]], share: bool) -> Table:
    words = field.replace("_", " ")
    lines = []
    for row in table:
        value = Bar(row["value"], row["low"], row["high"]) if share else row["value"]
        right = f"{row['right']:,} / {row['n']:,}" if row["right"] is not None else f"{row['n']:,}"
        lines.append([row[field], value, right])
    decided = any(row["right"] is not None for row in table)
    return Table(f"By {words}", [words, "score", "right" if decided else "rows"], lines)


def _confusions(result: TaskResult) -> ConfusionMaps | None:
    """Return a map for each modality, of the rows whose answers are right or wrong."""
    scored = result.own[0]
    pairs: dict[str, list[tuple[str, str]]] = {}
    for row, entry, scores in zip(result.rows, scored.entries, scored.scores.rows, strict=True):
        if scores.get("correct") is not None and (row.options or row.answer_type == "CLOSED"):
            given = (
                _chosen(row, scores) if "choice" in scores else final_reply(entry.get(scored.plan.protocol.field) or "")
            )
            pairs.setdefault(row.meta.get("modality", "all rows"), []).append((row.references[0], given or ""))
    largest = sorted(pairs, key=lambda name: (-len(pairs[name]), name))[:_MOST_MAPS]
    maps = {name: confusion(pairs[name]) for name in sorted(largest)}
    return ConfusionMaps("What is taken for what", maps, f"By “{result.metrics['protocol']}”.") if maps else None


def _curve(result: TaskResult) -> LineChart:
    scored = {_OWN: result.own[0], **{name: parts[0] for name, parts in result.controls.items()}}
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
    words = _words(result.metrics["headline"])
    return LineChart(f"Rows that reach a {words}", series, words, "share of rows")


def _facts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    dataset = {f"dataset {key}": value for key, value in metrics["dataset"].items() if value is not None}
    prompts = {f"prompt of {name}": block["prompt"] for name, block in metrics["protocols"].items()}
    return {**dataset, **prompts, **metrics["settings"]}


def _samples(
    result: TaskResult,
    all_boxes: Mapping[str, Sequence[BoxResult | None]],
    all_masks: Mapping[str, Sequence[MaskResult | None]],
) -> list[Sample]:
    head = result.own[0]
    nothing = [None] * len(result.rows)
    boxes, masks = all_boxes.get(_OWN, nothing), all_masks.get(_OWN, nothing)
    name = result.metrics["headline"].rpartition(".")[2]
    samples = []
    for row, entry, scores, own, outlined in zip(
        result.rows, head.entries, head.scores.rows, boxes, masks, strict=True
    ):
        decided = scores.get("correct")
        score = None if decided is not None or scores["value"] is None else (name, scores["value"])
        if own is not None and own.overlap is not None:
            score = "IoU", own.overlap
        if outlined is not None:
            score = "Dice", outlined.dice
        samples.append(
            Sample(
                generated=entry.get(head.plan.protocol.field) or "",
                references=row.references,
                images=[] if row.problem else row.images,
                question=row.text,
                correct=None if decided is None else bool(decided),
                score=score,
                name=row.id,
                tags=[row.meta[key] for key in _TAGS if row.meta.get(key)],
                problem=entry.get("error"),
                group=row.meta.get("modality", ""),
                options=row.options,
                chosen=_chosen(row, scores),
                boxes=None if own is None else own.drawn,
                masks=None if outlined is None else outlined.drawn,
            )
        )
    return samples


def _chosen(row: Question, scores: Mapping[str, Any]) -> str | None:
    """Return the option that an answer was taken for; a protocol may name it by its letter."""
    choice = scores.get("choice")
    position = string.ascii_uppercase.find(choice) if choice and len(choice) == 1 else -1
    if choice not in row.options and 0 <= position < len(row.options):
        return row.options[position]
    return choice


def _decides(scored: Scored) -> bool:
    return any(row.get("correct") is not None for row in scored.scores.rows)


def _is_share(score: str) -> bool:
    return score.rpartition(".")[2] not in _UNBOUNDED


def _words(name: str) -> str:
    words = name.replace(".", " ").replace("_", " ")
    if any(letter.isupper() for letter in words):
        return words
    return words.capitalize().replace(" f1", " F1").replace(" iou", " IoU").replace(" giou", " GIoU")
