import json

import pytest
from PIL import Image

from medcap.data.conversations import read_record
from medcap.errors import UserError
from medcap.evaluation.tasks.vqa import VqaTask


def write(tmp_path, rows, name="vqa.jsonl"):
    (tmp_path / "images").mkdir(exist_ok=True)
    Image.new("L", (4, 4)).save(tmp_path / "images" / "a.png")
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_questions_are_asked_exactly_as_training_records_put_them(tmp_path):
    row = {"question_id": 7, "image": "images/a.png", "question": "Is it clear?", "reference": "Yes"}
    row |= {"answer_type": "CLOSED ", "options": ["yes", "no"], "modality": "X-Ray", "question_type": "finding"}
    (loaded,) = VqaTask().load(write(tmp_path, [row]))
    turns = [{"from": "human", "value": "<image>\nIs it clear?"}, {"from": "gpt", "value": "Yes"}]
    training = {"image": "images/a.png", "conversations": turns}
    record = read_record(training, tmp_path / "x.json", 0, lambda image, folder: tmp_path / image)
    assert loaded.messages[0].content == record.messages[0].content
    assert (loaded.id, loaded.references, loaded.image) == ("7", ["Yes"], tmp_path / "images" / "a.png")
    assert dict(loaded.meta) == {
        "answer_type": "CLOSED",
        "options": "yes | no",
        "modality": "X-Ray",
        "question_type": "finding",
    }


def test_other_names_lists_of_answers_and_text_only_rows_are_read(tmp_path):
    rows = [{"id": "x", "question": "Q <image>?", "answer": ["a", "b"]}, {"question": "R", "reference": 3}]
    first, second = VqaTask().load(write(tmp_path, rows))
    assert (first.id, first.question, first.references, first.images) == ("x", "Q  ?", ["a", "b"], [])
    assert (second.id, second.references) == ("1", ["3"])


@pytest.mark.parametrize("key", ["conversations", "conversatons"])
def test_llava_med_rows_are_read_a_pair_of_turns_each(tmp_path, key):
    turns = [
        {"from": "human", "value": "Is it clear?\n<image>"},
        {"from": "gpt", "value": "yes"},
        {"from": "human", "value": "Which view?"},
        {"from": "gpt", "value": "PA"},
    ]
    row = {"id": "r1", "image": "images/a.png", key: turns, "answer_type": "OPEN"}
    first, second = VqaTask().load(write(tmp_path, [row]))
    assert [(r.id, r.question, r.references) for r in (first, second)] == [
        ("r1", "Is it clear?", ["yes"]),
        ("r1#2", "Which view?", ["PA"]),
    ]
    assert first.images == second.images == [str(tmp_path / "images" / "a.png")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "must be an object"),
        ({"reference": "a"}, "no 'question'"),
        ({"question": "q"}, "no 'reference'"),
        ({"question": " ", "reference": "a"}, "question is empty"),
        ({"question": "q", "reference": []}, "reference is empty"),
        ({"question": "q", "reference": "a", "image": 3}, "'image' must be a path"),
        ({"conversations": [{"from": "human", "value": "q"}]}, "pairs"),
        ({"conversations": [{"from": "gpt", "value": "q"}, {"from": "human", "value": "a"}]}, "alternate"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    path = write(tmp_path, [{"question": "q", "reference": "a"}, row])
    with pytest.raises(UserError, match=f"vqa.jsonl, row 1: .*{message}"):
        VqaTask().load(path)


def test_accuracy_is_split_by_what_the_rows_tell_and_counts_empty_answers(tmp_path):
    rows = [
        {"question": "q", "reference": "Yes", "answer_type": "CLOSED", "modality": "CT"},
        {"question": "q", "reference": "left lung", "answer_type": "OPEN"},
        {"question": "q", "reference": "no", "answer_type": "CLOSED", "modality": "CT"},
        {"question": "q", "reference": "no", "answer_type": "CLOSED", "modality": "CT"},
    ]
    task = VqaTask()
    metrics, row_scores = task.score(task.load(write(tmp_path, rows)), ["yes.", "the left lung", "", "no"])
    assert metrics["scores"] == {"accuracy": 0.5, "token_f1": pytest.approx(0.7)}
    assert metrics["intervals"]["accuracy"] == {"low": 0.0, "high": 1.0, "level": 0.95, "draws": 10_000}
    assert [scores["accuracy"] for scores in row_scores] == [1.0, 0.0, 0.0, 1.0]
    assert list(metrics["tables"]) == ["modality", "answer_type"]
    table = [(line["modality"], line["n"], line["correct"]) for line in metrics["tables"]["modality"]]
    assert table == [("(none)", 1, 0), ("CT", 3, 2)]
    assert [line["accuracy"] for line in metrics["tables"]["answer_type"]] == [pytest.approx(2 / 3), 0.0]
