"""Runs of the task vqa with given answers, through the real runner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from helpers.recorded_engine import RecordedEngine
from medcap.evaluation.prompting import plan_protocols
from medcap.evaluation.runner import run_task
from medcap.evaluation.scored import RunOptions
from medcap.evaluation.tasks.questions.vqa import VqaTask


def write_run(
    folder: Path, answers: Sequence[str], protocols: Sequence[str] = ("exact",), controls: Sequence[str] = ("no_image",)
) -> Path:
    """Answer questions without images whose right answers are yes and no in turn; even ones are of CT.

    Args:
        folder: the run; its questions are written beside it.
        answers: one for each question; under a control the answer is "yes".
        protocols: names of the scoring rules.
        controls: names of the controls.

    Returns:
        The run's folder.
    """
    questions = folder.with_name(f"{folder.name}.jsonl") if len(answers) != 8 else folder.with_name("questions.jsonl")
    rows = [
        {
            "question_id": f"q{number}",
            "question": f"Question {number}?",
            "reference": ("yes", "no")[number % 2],
            "answer_type": "CLOSED",
            "modality": ("CT", "MRI")[number % 2],
        }
        for number in range(len(answers))
    ]
    questions.parent.mkdir(parents=True, exist_ok=True)
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = VqaTask()
    given: dict[str, list[str]] = {f"q{number}": [text, "yes"] for number, text in enumerate(answers)}
    engine = RecordedEngine(lambda request: given[request.id].pop(0))
    options = RunOptions(folder, {"checkpoint": folder.name}, name=folder.name, controls=controls)
    run_task(task, task.load(questions), plan_protocols(list(protocols)), engine.engine(), options)
    return folder
