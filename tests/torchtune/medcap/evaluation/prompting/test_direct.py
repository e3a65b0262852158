import json
from pathlib import Path

from helpers.recorded_engine import RecordedEngine, question_row, turns_of
from medcap.evaluation.answering import PredictionStore
from medcap.evaluation.prompting.direct import Direct
from medcap.generation.prompt import user_message
from medcap.scoring.question import Question


def test_the_row_is_asked_as_it_stands(tmp_path):
    rows = [
        question_row("q1", "Is there a lung?", "a.png", meta={"modality": "CT"}, answer_type="CLOSED"),
        question_row("q2", "What is a lung?", reference="an organ"),
        Question("c1", [user_message("a.png")], ("a lung", "lungs")),
    ]
    model = RecordedEngine(lambda request: f"answer to {request.id}")
    entries = Direct().ask(rows, model.engine(), PredictionStore(tmp_path, {"checkpoint": "abc"}))
    assert [turns_of(request) for request in model.requests] == [
        [("user", [Path("a.png"), "\nIs there a lung?"])],
        [("user", ["What is a lung?"])],
        [("user", [Path("a.png")])],
    ]
    assert [(request.id, request.max_new_tokens, request.answer_prefix) for request in model.requests] == [
        ("q1", None, ""),
        ("q2", None, ""),
        ("c1", None, ""),
    ]
    written = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert written == entries
    fingerprint = entries[0].pop("fingerprint")
    assert len(fingerprint) == 64
    assert entries[0].pop("settings") == entries[1]["settings"]
    assert entries[0] == {
        "question_id": "q1",
        "image": "a.png",
        "question": "Is there a lung?",
        "reference": "yes",
        "modality": "CT",
        "answer_type": "CLOSED",
        "prediction": "answer to q1",
        "finish": "stop",
        "num_tokens": 2,
        "error": None,
    }
    assert (entries[1]["image"], entries[2]["reference"]) == (None, ["a lung", "lungs"])
    assert turns_of(Direct().last_request(rows[0], entries[0])) == [("user", [Path("a.png"), "\nIs there a lung?"])]


def test_an_answer_that_ends_in_an_error_is_a_failure_of_its_row_alone(tmp_path):
    rows = [question_row("q1", "Is it?", "a.png"), question_row("q2", "Is it?", "b.png")]
    model = RecordedEngine(unanswered=["q1"])
    failed, answered = Direct().ask(rows, model.engine(), PredictionStore(tmp_path, {}))
    assert (failed["prediction"], failed["finish"], failed["error"]) == ("", "error", "q1 is damaged")
    assert (answered["prediction"], answered["error"]) == ("said", None)
