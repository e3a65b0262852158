"""Runs a task: answers to files that survive a kill, then scores by each protocol, controls and the page."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.data.images.reader import ImageReader
from medcap.errors import UserError
from medcap.evaluation.answering import Engine, PredictionStore
from medcap.evaluation.box_notation import ask_in_notation
from medcap.evaluation.control_runs import ControlRun, ask_all, ask_and_score, ask_control, check_controls, run_control
from medcap.evaluation.predictions import settings_fingerprint
from medcap.evaluation.prompting import ScoringPlan
from medcap.evaluation.reliance import reliance_block
from medcap.evaluation.results_table import append_result
from medcap.evaluation.scored import RunOptions, Scored
from medcap.evaluation.shared.predictions import NotShared
from medcap.evaluation.shared.team import Team
from medcap.evaluation.summary import leaves, value_at
from medcap.evaluation.task_report import TaskResult, task_report
from medcap.evaluation.tasks.base import Benchmark, Task
from medcap.files import make_folder, plain, write_json
from medcap.plurals import counted
from medcap.scoring.image_reliance import NAMES
from medcap.scoring.protocols.base import nested
from medcap.scoring.question import Question
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
    "image_reliance",
)


def ask_task(
    task: Task,
    benchmark: Benchmark,
    plans: Sequence[ScoringPlan],
    engine: Engine,
    options: RunOptions,
    team: Team,
    opened: dict[Path, int],
) -> None:
    """Answer a task and its controls in several processes, and score nothing.

    Every process calls this; then the first one alone calls :func:`run_task`, which finds the answers.

    Args:
        task: what to run.
        benchmark: benchmark from ``task.load``; the same rows on every process.
        plans: protocols with their prompt methods.
        engine: the model.
        options: options of the run, the same on every process.
        team: the processes.
        opened: gets the files that were opened, for :func:`run_task`.

    Raises:
        FailedElsewhere: if another process failed.
        UserError: see :func:`run_task`.
    """
    store = _store(task, options, opened, team)
    rows = ask_in_notation(benchmark.rows, engine.box_style, engine.size_of)
    ask_all(rows, plans, engine, store)
    for control in options.controls:
        try:
            ask_control(control, rows, plans, engine, store, options)
        except NotShared:
            raise
        except UserError:
            pass  # all processes meet it, and the first one reports it with the scores


def run_task(
    task: Task,
    benchmark: Benchmark,
    plans: Sequence[ScoringPlan],
    engine: Engine,
    options: RunOptions,
    reader: ImageReader | None = None,
    opened: dict[Path, int] | None = None,
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
        opened: files that :func:`ask_task` opened in this run.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: if the answers in the folder were made under other settings, a control is unknown, or no row at
            all can be answered.
    """
    rows = benchmark.rows
    if not rows:
        raise UserError(f"task {task.name}: there are no rows")
    check_controls(options.controls)
    store = _store(task, options, {} if opened is None else opened)
    folder, settings = store.folder, store.settings

    rows = ask_in_notation(rows, engine.box_style, engine.size_of)
    own = ask_and_score(rows, plans, engine, store, rows)
    notices = [*benchmark.notices, *_old_answers(store)]
    controls: dict[str, ControlRun] = {}
    for control in options.controls:
        try:
            controls[control], lines = run_control(control, rows, own, engine, store, options)
        except UserError as error:
            lines = [f"control {control} was not run: {error}"]
        notices += lines

    blocks = {scored.plan.protocol.name: _block(rows, scored, controls) for scored in own}
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
    # The page's curves compare the same rows: a control that leaves rows out is in its tables only.
    whole = {name: run.scored for name, run in controls.items() if run.fits(own[0].plan.protocol.name, len(rows))}
    task_report(TaskResult(task, rows, own, whole, result), reader).write(folder / "report.html")
    _append_result(result, options, folder)
    write_json(folder / METRICS, plain(result))
    return result


def _store(task: Task, options: RunOptions, opened: dict[Path, int], team: Team | None = None) -> PredictionStore:
    folder = make_folder(Path(options.output_dir, options.folder or task.name))
    settings = {"task": task.name, **options.settings}
    return PredictionStore(folder, settings, "", options.overwrite, options.keep_old, opened, team)


def _old_answers(store: PredictionStore) -> list[str]:
    count = sum(store.opened.values())
    return [f"{counted(count, 'answer was', 'answers were')} made under other settings than these"] if count else []


def _block(rows: Sequence[Question], scored: Scored, controls: Mapping[str, ControlRun]) -> dict[str, Any]:
    plan, scores, protocol = scored.plan, scored.scores, scored.plan.protocol.name
    groups = [row.groups for row in rows]
    clusters = [row.cluster for row in rows] if scores.clustered else None
    return {
        "protocol": protocol,
        "description": plan.protocol.description,
        "asked": plan.method.name,
        "prompt": plan.method.template,
        "prompt_sha256": hashlib.sha256(plan.method.template.encode()).hexdigest(),
        "headline": plan.protocol.headline,
        **nested(scores.counts),
        "truncated": sum(entry.get("finish") == "length" for entry in scored.entries),
        "scores": nested(scores.scores),
        "intervals": nested(scores.intervals),
        "averages": averages(groups, scores.rows, plan.protocol.share, clusters),
        "tables": group_tables(groups, scores.rows, plan.protocol.share, clusters),
        "controls": {
            name: run.block(plan.protocol.name) for name, run in controls.items() if run.of(plan.protocol.name)
        },
        "image_reliance": reliance_block(scored, controls),
        "notices": scores.notices,
    }


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
            if "own" in part:
                row[f"{name}.{block['headline']}.{control}_own"] = value_at(part["own"]["scores"], block["headline"])
        row |= {
            f"{name}.{measure}": part["value"] for measure, part in block["image_reliance"].items() if measure in NAMES
        }
    append_result(options.results_csv or Path(options.output_dir, "results.csv"), row)
