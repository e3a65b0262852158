"""What a task leaves beside its numbers: medcap's tables and the page to look at."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcap.data.conversations import PLACEHOLDER
from medcap.data.images import ImageReader
from medcap.evaluation.files import write_text
from medcap.evaluation.report import Bar, Card, Report, Sample
from medcap.evaluation.tasks.base import Row, Task
from medcap.generation.medcap_prompt import plain_text

_RAW_COLUMNS = ("image", "instruction", "output", "generated")
_TITLES = {"caption": "Captions", "vqa": "Visual question answering"}
_CONTROL_WORDS = {"shuffled": "images shuffled", "no_image": "no image"}
_CURVE_STEPS = 100
_TAGS = ("modality", "question_type", "answer_type")


def write_caption_tables(
    folder: Path, name: str, rows: Sequence[Row], texts: Sequence[str], scores: Mapping[str, float], image_tokens: int
) -> None:
    """Write medcap's ``metrics-raw-{name}.csv`` and ``metrics-{name}.csv``.

    The first is UTF-8 with a byte order mark and has the columns image, instruction (the whole prompt text), output
    (the reference) and generated; the second has no header and a line ``score,0.123456`` each.

    Args:
        folder: where to.
        name: the checkpoint's.
        rows: what was asked.
        texts: the captions.
        scores: name -> value, in their order.
        image_tokens: placeholder characters for an image in the prompt text.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_RAW_COLUMNS)
    for row, text in zip(rows, texts, strict=True):
        writer.writerow([row.image or "", prompt_text(row, image_tokens), row.references[0], text])
    write_text(folder / f"metrics-raw-{name}.csv", table.getvalue(), encoding="utf-8-sig")
    write_text(folder / f"metrics-{name}.csv", "".join(f"{key},{value:.6f}\n" for key, value in scores.items()))


def prompt_text(row: Row, image_tokens: int) -> str:
    """A prompt as medcap's raw tables show it: Llama 3's template as text, images as runs of placeholders."""
    turns = []
    for message in row.messages:
        parts = [PLACEHOLDER * image_tokens if part["type"] == "image" else part["content"] for part in message.content]
        turns.append((message.role, "".join(parts)))
    return plain_text([*turns, ("assistant", "")])


def write_page(
    path: Path,
    task: Task,
    rows: Sequence[Row],
    answers: Sequence[Mapping[str, Any]],
    row_scores: Sequence[Mapping[str, Any]],
    control_scores: Mapping[str, Sequence[Mapping[str, Any]]],
    result: Mapping[str, Any],
    reader: ImageReader | None = None,
) -> None:
    """Write the task's page.

    Args:
        path: the HTML file.
        task: what was run.
        rows: what was asked.
        answers: what the predictions file holds for each row.
        row_scores: from ``task.score``.
        control_scores: the same for each control that was run.
        result: what metrics.json holds.
        reader: opens images.
    """
    source = Path(result["dataset"]["source"])
    report = Report(
        f"{_TITLES.get(task.name, task.name)}: {source.name}",
        f"{len(rows):,} rows. Protocol “{task.protocol}”: {task.protocol_description}.",
        reader=reader,
    )
    report.add_cards(_cards(task, result))
    report.add_notices(result["notices"])
    _add_scores(report, result)
    for key, table in result["tables"].items():
        lines = [
            [row[key], Bar(row["accuracy"], row["low"], row["high"]), f"{row['correct']:,} / {row['n']:,}"]
            for row in table
        ]
        report.add_table(f"By {key.replace('_', ' ')}", [key.replace("_", " "), "accuracy", "right"], lines)
    if not task.marks_rows:
        _add_curve(report, task.headline, {"own image": row_scores, **control_scores})
    samples = [
        Sample(
            generated=answer["generated"],
            references=row.references,
            image=None if row.problem else row.image,
            question=row.question,
            correct=scores[task.headline] == 1.0 if task.marks_rows else None,
            score=None if task.marks_rows else (task.headline, scores[task.headline]),
            name=row.id,
            tags=[row.meta[key] for key in _TAGS if key in row.meta],
            problem=answer.get("error"),
        )
        for row, answer, scores in zip(rows, answers, row_scores, strict=True)
    ]
    report.add_gallery("What the model says", samples)
    dataset = {f"dataset {key}": value for key, value in result["dataset"].items()}
    report.add_facts("How this was made", {**dataset, **result["settings"]})
    report.write(path)


def _cards(task: Task, result: Mapping[str, Any]) -> list[Card]:
    head, share = task.headline, task.marks_rows
    cards = [_score_card(result, head, _sentence(head), share, main=True)]
    for control, outcome in result["controls"].items():
        card = _score_card(result, f"{head}_{control}", f"{_sentence(head)}, {_CONTROL_WORDS[control]}", share)
        cards.append(replace(card, detail=_fall(outcome["fall"], share)))
    failures = f"{result['failures']:,} without an answer, {result['truncated']:,} cut at the token limit"
    cards.append(Card("Rows", f"{result['n']:,}", failures))
    return cards


def _fall(fall: Mapping[str, float], share: bool) -> str:
    value, low, high = ((100.0 if share else 1.0) * fall[key] for key in ("value", "low", "high"))
    digits, unit = (1, " points") if share else (3, "")
    words = "the image matters" if low > 0 else "no proof that the image matters"
    return f"Falls by {value:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f}): {words}"


def _score_card(result: Mapping[str, Any], key: str, label: str, share: bool, main: bool = False) -> Card:
    value, interval = result["scores"][key], result["intervals"].get(key)
    if not share:
        detail = f"95 % interval {interval['low']:.3f} to {interval['high']:.3f}" if interval else ""
        return Card(label, f"{value:.3f}", detail, main=main)
    span = (interval["low"], value, interval["high"])
    detail = f"95 % interval {100 * span[0]:.1f} to {100 * span[2]:.1f}"
    return Card(label, f"{100 * value:.1f} %", detail, span, main)


def _add_scores(report: Report, result: Mapping[str, Any]) -> None:
    controls = result["controls"]
    columns = ["score", "value", "95 % interval", *(_CONTROL_WORDS[name] for name in controls)]
    lines = []
    suffixes = tuple(f"_{control}" for control in controls)
    for name, value in result["scores"].items():
        if suffixes and name.endswith(suffixes):
            continue
        interval = result["intervals"].get(name)
        between = f"{interval['low']:.3f}\u2060–\u2060{interval['high']:.3f}" if interval else "–"
        others = [outcome["scores"].get(name) for outcome in controls.values()]
        lines.append([_sentence(name), value, between, *others])
    note = "On the right, the same questions without the right image." if controls else ""
    report.add_table("Scores", columns, lines, note)


def _add_curve(report: Report, name: str, scores: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    highest = max(row[name] for rows in scores.values() for row in rows) or 1.0
    limits = [highest * step / _CURVE_STEPS for step in range(_CURVE_STEPS + 1)]
    series = {
        _CONTROL_WORDS.get(label, label): [
            (limit, sum(row[name] >= limit for row in rows) / len(rows)) for limit in limits
        ]
        for label, rows in scores.items()
    }
    report.add_chart(f"Rows that reach a {name}", series, name, "share of rows")


def _sentence(name: str) -> str:
    words = name.replace("_", " ")
    return words if words[0].isupper() else words.capitalize().replace(" f1", " F1")
