"""Runs a task: answers to files that survive a kill, then scores by each protocol, controls and the page."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcap.data.images.reader import ImageReader
from medcap.errors import UserError
from medcap.evaluation.answering import Engine, Entry, PredictionStore
from medcap.evaluation.controls import CONTROLS
from medcap.evaluation.predictions import settings_fingerprint
from medcap.evaluation.prompting import ScoringPlan
from medcap.evaluation.results_table import append_result
from medcap.evaluation.scored import RunOptions, Scored
from medcap.evaluation.summary import leaves, value_at
from medcap.evaluation.task_report import TaskResult, task_report
from medcap.evaluation.tasks.base import Benchmark, Task
from medcap.files import make_folder, plain, write_json
from medcap.scoring.protocols.base import ProtocolScores, nested
from medcap.scoring.question import Question
from medcap.scoring.statistics import DIFFERENCE, NUMBER, bootstrap_interval
from medcap.scoring.tables import averages, group_tables

METRICS = "metrics.json"
# The headline protocol's part of these is at the top of metrics.json as well.
_HEADLINE = (
    "protocol",
    "description",
    "asked",
    "prompt_sha256",
    "headline",
    "n",
    "failures",
    "truncated",
    "scores",
    "intervals",
    "averages",
    "tables",
    "controls",
)


def run_task(
    task: Task,
    benchmark: Benchmark,
    plans: Sequence[ScoringPlan],
    engine: Engine,
    options: RunOptions,
    reader: ImageReader | None = None,
) -> dict[str, Any]:
    """Ask, score, and write ``<output_dir>/<task>/``.

    It holds predictions.jsonl and its like for other prompt methods and for controls, metrics.json and report.html;
    medcap 2024's tables go to ``output_dir`` itself. A run that was killed continues with the rows without an answer.

    Args:
        task: what to run.
        benchmark: benchmark from ``task.load``, perhaps with fewer rows.
        plans: protocols with their prompt methods; the first one gives the headline.
        engine: the model.
        options: see :class:`RunOptions`.
        reader: opens images for the page; None shows only those in their file's own folder.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: if the answers in the folder were made under other settings, a control is unknown, or no row at
            all can be answered.
    """
    rows = benchmark.rows
    if not rows:
        raise UserError(f"task {task.name}: there are no rows")
    unknown = [control for control in options.controls if control not in CONTROLS]
    if unknown:
        raise UserError(f"controls: {unknown[0]} is unknown; there are {', '.join(CONTROLS)}")
    folder = make_folder(Path(options.output_dir, options.folder or task.name))
    settings = {"task": task.name, **options.settings}
    store = PredictionStore(folder, settings, "", options.overwrite, options.keep_old)

    own = _ask_and_score(rows, plans, engine, store)
    notices = [*benchmark.notices, *_old_answers(store)]
    controls: dict[str, list[Scored]] = {}
    for control in options.controls:
        try:
            changed = CONTROLS[control](rows, options.seed)
        except UserError as error:
            notices.append(f"control {control} was not run: {error}")
            continue
        controls[control] = _ask_and_score(changed, plans, engine, replace(store, suffix=f"_{control}"))

    blocks = {
        scored.plan.protocol.name: _block(rows, scored, {name: parts[position] for name, parts in controls.items()})
        for position, scored in enumerate(own)
    }
    head = next(iter(blocks.values()))
    result = plain(
        {
            "task": task.name,
            **{key: head[key] for key in _HEADLINE},
            "dataset": {
                "source": benchmark.source,
                "files": len(benchmark.files),
                "sha256": benchmark.sha256,
                "rows": len(rows),
                "published": benchmark.expected,
            },
            "protocols": blocks,
            "controls_seed": options.seed,
            "notices": notices,
            "settings": settings,
        }
    )
    if task.legacy_table is not None:
        task.legacy_table(rows, own, options)
    task_report(TaskResult(task, rows, own, controls, result), reader).write(folder / "report.html")
    _append_result(result, options, folder)
    write_json(folder / METRICS, plain(result))
    return result


def _ask_and_score(
    rows: Sequence[Question], plans: Sequence[ScoringPlan], engine: Engine, store: PredictionStore
) -> list[Scored]:
    asked: dict[str, list[Entry]] = {}
    result = []
    for plan in plans:
        if plan.method.file not in asked:
            asked[plan.method.file] = plan.method.ask(rows, engine, store)
        entries = asked[plan.method.file]
        result.append(Scored(plan, entries, plan.score(plan.answers(rows, entries))))
    return result


def _old_answers(store: PredictionStore) -> list[str]:
    count = sum(store.opened.values())
    return [f"{count} answers were made under other settings than these"] if count else []


def _block(rows: Sequence[Question], scored: Scored, controls: Mapping[str, Scored]) -> dict[str, Any]:
    plan, scores = scored.plan, scored.scores
    groups = [row.groups for row in rows]
    return {
        "protocol": plan.protocol.name,
        "description": plan.protocol.description,
        "asked": plan.method.name,
        "prompt": plan.method.template,
        "prompt_sha256": hashlib.sha256(plan.method.template.encode()).hexdigest(),
        "headline": plan.protocol.headline,
        **nested(scores.counts),
        "truncated": sum(entry.get("finish") == "length" for entry in scored.entries),
        "scores": nested(scores.scores),
        "intervals": nested(scores.intervals),
        "averages": averages(groups, scores.rows, plan.protocol.share),
        "tables": group_tables(groups, scores.rows, plan.protocol.share),
        "controls": {name: _control(scores, control, plan.protocol.share) for name, control in controls.items()},
        "notices": scores.notices,
    }


def _control(own: ProtocolScores, control: Scored, share: bool) -> dict[str, Any]:
    # The references stay: it is the image that is wrong.
    pairs = [
        (mine["value"], other["value"])
        for mine, other in zip(own.rows, control.scores.rows, strict=True)
        if mine["value"] is not None and other["value"] is not None
    ]
    block: dict[str, Any] = {
        "failures": control.scores.counts["failures"],
        "scores": nested(control.scores.scores),
        "intervals": nested(control.scores.intervals),
    }
    if pairs:
        kind = DIFFERENCE if share else NUMBER
        fall = bootstrap_interval([mine - other for mine, other in pairs], kind=kind)
        block["fall"] = {"value": fall.value, **fall.as_dict()}
    return block


def _append_result(result: Mapping[str, Any], options: RunOptions, folder: Path) -> None:
    row: dict[str, Any] = {
        "output_dir": str(options.output_dir),
        "task": result["task"],
        "protocol": result["protocol"],
        "settings": settings_fingerprint(result["settings"]),
        "checkpoint": options.name,
        "folder": folder.name,
        "dataset": result["dataset"]["source"],
        "dataset_sha256": result["dataset"]["sha256"],
        "n": result["n"],
        "failures": result["failures"],
    }
    for name, block in result["protocols"].items():
        row |= {f"{name}.{score}": value for score, value in leaves(block["scores"])}
        for control, part in block["controls"].items():
            row[f"{name}.{block['headline']}.{control}"] = value_at(part["scores"], block["headline"])
    append_result(options.results_csv or Path(options.output_dir, "results.csv"), row)
