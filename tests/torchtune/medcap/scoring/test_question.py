import json
from pathlib import Path

from helpers.recorded_engine import RecordedEngine, question_row
from medcap.evaluation.answering import PredictionStore
from medcap.evaluation.prompting import plan_protocols
from medcap.generation.prompt import user_message
from medcap.scoring.protocols.base import nested
from medcap.scoring.question import Question


def test_a_question_of_turns_and_one_of_words_alone():
    asked = Question("q", [user_message("a.png", "Look."), user_message(["b.png", "c.png"], " Where? ")], ("left",))
    assert (asked.text, asked.images, asked.reference) == ("Where?", ["a.png", "b.png", "c.png"], "left")
    read = Question("q", (), ("left", "l"), words="Where? ", options=("left", "right"), columns=("", "left", "right"))
    assert (read.text, read.images, read.reference) == ("Where? ", [], ["left", "l"])
    assert (read.lettered, asked.lettered) == (("", "left", "right"), ())


def test_tables_show_the_answer_type_of_the_further_fields_first():
    meta = {"organ": "lung", "modality": "", "dataset": "d"}
    assert Question("q", (), ("x",), answer_type="OPEN", meta=meta).groups == {"answer_type": "OPEN", "organ": "lung"}
    # A file of answers keeps "CLOSED " for the published rules, which know no such type.
    spaced = Question("q", (), ("x",), answer_type="CLOSED ", meta={"answer_type": "CLOSED"})
    assert (spaced.groups, spaced.answer_type) == ({"answer_type": "CLOSED"}, "CLOSED ")


def test_golden_rows_of_predictions_and_of_protocols(tmp_path):
    question = question_row(
        "q1", "Is it?", "a.png", "no", ("yes", "no"), answer_type="CLOSED", meta={"modality": "CT", "dataset": "d"}
    )
    values = {}
    for plan in plan_protocols(["exact", "llava_med", "medcap_option", "option_text"]):
        store = PredictionStore(tmp_path, {})
        entries = plan.method.ask([question], RecordedEngine(lambda request: "no.").engine(), store)
        (row,) = plan.protocol.score(plan.answers([question], entries)).rows
        values[plan.protocol.name] = nested(row)
    line = json.loads(Path(tmp_path, "predictions.jsonl").read_text())
    assert list(line.items())[:12] == [
        ("question_id", "q1"),
        ("image", "a.png"),
        ("question", "Is it?"),
        ("reference", "no"),
        ("options", ["yes", "no"]),
        ("modality", "CT"),
        ("answer_type", "CLOSED"),
        ("prediction", "no."),
        ("finish", "stop"),
        ("num_tokens", 2),
        ("error", None),
        ("fingerprint", "256a651f3466f536b571b9bbc20347d223db976928d4972faba568a70882fbcc"),
    ]
    right = {"question_id": "q1", "correct": True, "value": 1.0}
    assert values == {
        "exact": {**right, "accuracy": 1.0, "token_f1": 1.0},
        "llava_med": {**right, "closed": {"accuracy": 1.0}},
        "medcap_option": {**right, "accuracy": 1.0, "choice": "no"},
        "option_text": {**right, "accuracy": 1.0, "choice": "no"},
    }
