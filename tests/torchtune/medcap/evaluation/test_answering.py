import json
from dataclasses import replace

import pytest

from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.evaluation.answering import PredictionStore, collect, generated, scored
from medcap.generation.prompt import user_message
from medcap.generation.request import CandidateScores, Generation, Request
from medcap.scoring.answers import read_answers
from medcap.scoring.question import Question

ROWS = [
    Question(f"q{index}", [user_message(None, f"What is {index}?")], ("x",), meta={"modality": "CT"})
    for index in range(6)
]


class Model:
    def __init__(self, broken=(), stop_after=None):
        self.asked, self.broken, self.stop_after = [], broken, stop_after

    def __call__(self, requests, on_result):
        for index, request in enumerate(requests):
            if request.id in self.broken:
                raise UserError(f"{request.id} is too long")
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(request.id)
            on_result(index, Generation(f"answer {request.id}", [1, 2]))


def ask(folder, model, rows=ROWS, **options):
    requests = [Request(row.messages, row.id) for row in rows]
    with PredictionStore(folder, options.pop("settings", {"t": 0}), **options).open("predictions") as file:
        return collect(rows, requests, model, lambda _, result: generated(result), file)


def test_an_entry_is_a_row_of_answers_with_its_groups(tmp_path):
    entry = ask(tmp_path, Model())[0]
    assert {key: value for key, value in entry.items() if key not in ("fingerprint", "settings")} == {
        "question_id": "q0",
        "image": None,
        "question": "What is 0?",
        "reference": "x",
        "modality": "CT",
        "prediction": "answer q0",
        "finish": "stop",
        "num_tokens": 2,
        "error": None,
    }


def test_all_images_of_a_question_are_in_its_entry_and_read_from_it_again(tmp_path):
    images = [ImageRef("a.png"), ImageRef("b.png")]
    rows = [
        Question("two", [user_message(images, "Which?")], ("x",)),
        Question("one", [user_message(images[1])], ("x",)),
    ]
    two, one = ask(tmp_path, Model(), rows)
    assert (two["image"], two["images"]) == ("a.png", ["a.png", "b.png"])
    assert one["image"] == "b.png"
    assert "images" not in one
    entries = [answer.question.image_entries for answer in read_answers(tmp_path / "predictions.jsonl")]
    assert entries == [["a.png", "b.png"], ["b.png"]]


def test_a_torn_file_continues_and_ends_like_a_whole_one(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "torn", Model(stop_after=3))
    path = tmp_path / "torn" / "predictions.jsonl"
    path.write_bytes(path.read_bytes() + b'{"question_id": "q3", "pred')
    again = Model()
    ask(tmp_path / "torn", again)
    ask(tmp_path / "whole", Model())
    assert again.asked == ["q3", "q4", "q5"]
    assert path.read_bytes() == (tmp_path / "whole" / "predictions.jsonl").read_bytes()


def test_failures_are_asked_again_and_answers_are_not(tmp_path):
    first = ask(tmp_path, Model(broken={"q2"}))
    assert (first[2]["prediction"], first[2]["error"]) == ("", "q2 is too long")
    repaired = Model()
    assert ask(tmp_path, repaired)[2]["prediction"] == "answer q2"
    assert repaired.asked == ["q2"]


def test_another_problem_replaces_the_old_one(tmp_path):
    for problem in ("a.png does not exist", "a.png does not exist", "a.png is outside"):
        rows = [replace(ROWS[0], problem=problem), *ROWS[1:]]
        assert ask(tmp_path, Model(), rows)[0]["error"] == problem
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["question_id"] == "q0" for line in lines) == 1


def test_old_answers_are_kept_only_by_consent(tmp_path):
    ask(tmp_path, Model())
    with pytest.raises(UserError, match="t: 0 there, 1 now"):
        ask(tmp_path, Model(), settings={"t": 1})
    opened = {}
    kept = Model()
    ask(tmp_path, kept, settings={"t": 1}, keep_old=True, opened=opened)
    assert (kept.asked, list(opened.values())) == ([], [6])


def test_one_run_answers_again_once(tmp_path):
    ask(tmp_path, Model())
    store = PredictionStore(tmp_path, {"t": 0}, overwrite=True)
    model = Model()
    for _ in range(2):
        with store.open("predictions") as file:
            requests = [Request(row.messages, row.id) for row in ROWS]
            collect(ROWS, requests, model, lambda _, result: generated(result), file)
    assert len(model.asked) == 6


def test_hopeless_rows_and_open_requests_stop_the_run(tmp_path):
    many = [replace(ROWS[0], id=f"m{index}") for index in range(40)]
    with pytest.raises(UserError, match="16 rows failed and none was answered; the first one: m0 is too long"):
        ask(tmp_path / "many", Model(broken={row.id for row in many}), many)
    with pytest.raises(RuntimeError, match="left 6 requests unanswered"):
        ask(tmp_path / "open", lambda requests, on_result: None)


def test_the_best_candidate_is_the_prediction(tmp_path):
    entry = scored(["a", "b"], CandidateScores([-1.0, -1.5], [1, 3]))
    assert (entry["prediction"], entry["prediction_normalized"], entry["num_tokens"]) == ("a", "b", 4)
    assert scored(["a"], CandidateScores(error="bad"))["error"] == "bad"
