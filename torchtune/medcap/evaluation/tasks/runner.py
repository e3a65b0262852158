"""Runs a task: answers to a file that survives a kill, then scores, controls and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.data.images import ImageReader
from medcap.errors import UserError
from medcap.evaluation.controls import CONTROLS
from medcap.evaluation.files import make_folder, plain, write_json
from medcap.evaluation.predictions import PredictionFile, dataset_fingerprint, request_fingerprint
from medcap.evaluation.statistics import bootstrap_interval
from medcap.evaluation.tasks.base import Row, Task
from medcap.evaluation.tasks.outputs import write_caption_tables, write_page
from medcap.generation.request import Generation, Request

OnResult = Callable[[int, Generation], None]
Generate = Callable[[list[Request], OnResult], Any]

# So many rows that fail one after another, and none that succeeds, are no matter of single rows.
_HOPELESS = 16


def run_task(
    task: Task,
    rows: Sequence[Row],
    generate: Generate,
    output_dir: str | Path,
    settings: Mapping[str, Any],
    *,
    source: str | Path,
    reader: ImageReader | None = None,
    name: str = "",
    controls: Sequence[str] = ("shuffled",),
    seed: int = 0,
    overwrite: bool = False,
    num_image_tokens: int = 50,
) -> dict[str, Any]:
    """Ask, score, and write ``<output_dir>/<task>/``.

    It holds predictions.jsonl (and predictions_<control>.jsonl), settings.json, metrics.json and report.html; for
    captions also medcap's metrics-raw-<name>.csv and metrics-<name>.csv. A run that was killed goes on with the rows
    that have no answer yet.

    Args:
        task: what to run.
        rows: from ``task.load``, or some of them.
        generate: called as ``generate(requests, on_result)``; calls ``on_result(index, generation)`` for each request
            as soon as it is answered. A generation with an ``error`` is a failure of its row; a UserError counts
            against the rows that cause it.
        output_dir: folder of the run.
        settings: all that decides an answer beside the request (checkpoint fingerprint, sampling, prompt): rows made
            under other settings are never mixed in.
        source: the data file, for its fingerprint.
        reader: opens images for the page; None shows only those in their file's own folder.
        name: the checkpoint's, for medcap's file names; the task's name if empty.
        controls: names of ``CONTROLS`` to run as well.
        seed: of the controls.
        overwrite: answer every row anew.
        num_image_tokens: placeholder characters that medcap's raw table shows for an image.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: if the answers in the folder were made under other settings, a control is unknown, or no row at
            all can be answered.
    """
    if not rows:
        raise UserError(f"task {task.name}: there are no rows")
    unknown = [control for control in controls if control not in CONTROLS]
    if unknown:
        raise UserError(f"controls: {unknown[0]} is unknown; there are {', '.join(CONTROLS)}")
    folder = make_folder(Path(output_dir, task.name))
    settings = {"task": task.name, **settings}

    answers = predict(rows, generate, folder / "predictions.jsonl", settings, overwrite)
    texts = [answer["generated"] for answer in answers]
    metrics, row_scores = task.score(rows, texts)
    result: dict[str, Any] = {
        "task": task.name,
        "protocol": task.protocol,
        "protocol_description": task.protocol_description,
        "headline": task.headline,
        "n": len(rows),
        "failures": sum(not text.strip() for text in texts),
        "truncated": sum(answer.get("finish") == "length" for answer in answers),
        "dataset": {"source": str(source), "sha256": dataset_fingerprint(source), "rows": len(rows)},
        **metrics,
        "notices": list(metrics["notices"]),
        "scores": dict(metrics["scores"]),
        "intervals": dict(metrics["intervals"]),
        "controls": {},
        "settings": dict(settings),
    }
    control_scores = {}
    for control in controls:
        try:
            changed = CONTROLS[control](rows, seed)
        except UserError as error:
            result["notices"].append(f"control {control} was not run: {error}")
            continue
        answered = predict(changed, generate, folder / f"predictions_{control}.jsonl", settings, overwrite)
        result["controls"][control] = {"seed": seed}
        control_scores[control] = _add_control(control, task, changed, answered, row_scores, result)
    result = plain(result)
    if task.name == "caption":
        own = {key: result["scores"][key] for key in metrics["scores"]}
        write_caption_tables(folder, name or task.name, rows, texts, own, num_image_tokens)
    write_page(folder / "report.html", task, rows, answers, row_scores, control_scores, result, reader)
    write_json(folder / "metrics.json", result)
    return result


def _add_control(
    control: str,
    task: Task,
    rows: Sequence[Row],
    answers: Sequence[Mapping[str, Any]],
    row_scores: Sequence[Mapping[str, Any]],
    result: dict[str, Any],
) -> list[dict[str, Any]]:
    # The references stay: it is the image that is wrong.
    metrics, control_scores = task.score(rows, [answer["generated"] for answer in answers])
    head = task.headline
    falls = [own[head] - other[head] for own, other in zip(row_scores, control_scores, strict=True)]
    difference = bootstrap_interval(falls)
    result["controls"][control] |= {
        "failures": sum(not answer["generated"].strip() for answer in answers),
        "scores": metrics["scores"],
        "intervals": metrics["intervals"],
        "fall": {"value": difference.value, **difference.as_dict()},
    }
    result["scores"][f"{head}_{control}"] = metrics["scores"][head]
    if head in metrics["intervals"]:
        result["intervals"][f"{head}_{control}"] = metrics["intervals"][head]
    return control_scores


def predict(
    rows: Sequence[Row], generate: Generate, path: Path, settings: Mapping[str, Any], overwrite: bool = False
) -> list[dict[str, Any]]:
    """Answer rows, taking from the file what it already has.

    Args:
        rows: what is asked.
        generate: see :func:`run_task`.
        path: the predictions file.
        settings: see :func:`run_task`.
        overwrite: answer every row anew.

    Returns:
        For each row what the file holds: id, image, question, references, generated ("" for a failure), finish,
        num_tokens, error.

    Raises:
        UserError: if the file belongs to other settings, or every row fails.
    """
    requests = [Request(messages=list(row.messages), id=row.id) for row in rows]
    fingerprints = [request_fingerprint(request) for request in requests]
    with PredictionFile(path, settings, overwrite) as file:
        pending = []
        for index, (row, fingerprint) in enumerate(zip(rows, fingerprints, strict=True)):
            known = file.rows.get(fingerprint)
            # A failure may have been mended since, for instance by putting the image there.
            if known is not None and known.get("error") is None:
                continue
            if row.problem is None:
                pending.append(index)
            elif known is None:
                file.append(_entry(row, fingerprint, error=row.problem))

        def keep(index: int, generation: Generation) -> None:
            file.append(_entry(rows[index], fingerprints[index], generation, generation.error or None))

        def fail(index: int, error: UserError) -> None:
            file.append(_entry(rows[index], fingerprints[index], error=str(error)))

        _generate_around_failures(requests, pending, generate, keep, fail)
        answers = [file.rows[fingerprint] for fingerprint in fingerprints]
    # [Contract] a mistake that concerns every row must stop the run, not become a score of 0.
    if all(answer.get("error") for answer in answers):
        raise UserError(f"none of the {len(answers)} rows can be answered; the first one: {answers[0]['error']}")
    return answers


def _generate_around_failures(
    requests: list[Request],
    pending: list[int],
    generate: Generate,
    keep: OnResult,
    fail: Callable[[int, UserError], None],
) -> None:
    """Halve what a UserError stopped until the rows that cause it stand alone."""
    answered: set[int] = set()
    failures: list[tuple[int, UserError]] = []
    groups = [pending] if pending else []
    while groups:
        group = [index for index in groups.pop() if index not in answered]
        if not group:
            continue

        def on_result(place: int, generation: Generation, group: list[int] = group) -> None:
            if group[place] not in answered:
                answered.add(group[place])
                keep(group[place], generation)

        try:
            generate([requests[index] for index in group], on_result)
        except UserError as error:
            left = [index for index in group if index not in answered]
            if len(left) > 1:
                half = len(left) // 2
                groups += [left[half:], left[:half]]
                continue
            failures += [(index, error) for index in left]
            if not answered and len(failures) >= _HOPELESS:
                raise UserError(
                    f"{len(failures)} rows failed and none was answered; the first one: {failures[0][1]}"
                ) from error
        else:
            if not answered.issuperset(group):
                raise RuntimeError(f"the generator left {len(set(group) - answered)} requests unanswered")
    for index, error in failures:
        fail(index, error)


def _entry(
    row: Row, fingerprint: str, generation: Generation | None = None, error: str | None = None
) -> dict[str, Any]:
    answer = {"generated": "", "finish": None, "num_tokens": 0}
    if generation is not None:
        answer = {"generated": generation.text, "finish": generation.finish, "num_tokens": len(generation.tokens)}
    return {
        "id": row.id,
        "image": str(row.image) if row.image else None,
        "question": row.question,
        "references": list(row.references),
        **answer,
        "error": error,
        "fingerprint": fingerprint,
    }
