import json

import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.answers import read_answers, read_candidates

ROW = {"question_id": "1", "question": "Which organ?", "reference": "lung", "prediction": "the lung"}


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="answers.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def test_a_full_row_and_keys_that_are_not_known(write):
    row = {
        **ROW,
        "options": ["heart", "lung"],
        "answer_type": "CLOSED",
        "image": "a.png",
        "modality": " CT ",
        "organ": "",
        "question_type": 3,
        "finish": "stop",
        "num_tokens": 4,
    }
    assert read_answers(write(row)) == [
        make_answer(
            "1",
            "Which organ?",
            ("lung",),
            "the lung",
            ("heart", "lung"),
            "CLOSED",
            {"modality": "CT", "question_type": "3", "answer_type": "CLOSED", "organ": ""},
            "a.png",
        )
    ]


def test_a_json_array_is_read_too(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps([ROW, {**ROW, "question_id": "2"}], indent=1))
    assert [answer.question.id for answer in read_answers(path)] == ["1", "2"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question_id": 7, "gt": "yes", "text": "no", "answer_type": "CLOSED"}, ("7", ("yes",), "no")),
        ({"id": "x", "answer": "yes", "prediction": "no"}, ("x", ("yes",), "no")),
        ({"reference": 2, "prediction": 2.5}, ("0", ("2",), "2.5")),
        ({"reference": ["a", 1], "prediction": " a\n"}, ("0", ("a", "1"), " a\n")),
        ({"reference": "", "prediction": "a"}, ("0", ("",), "a")),
    ],
)
def test_other_names_and_numbers(write, row, expected):
    (answer,) = read_answers(write(row))
    assert (answer.question.id, answer.question.references, answer.prediction) == expected


def test_a_missing_or_null_prediction_is_a_failure_and_stays(write):
    rows = [ROW, {**ROW, "question_id": "2", "prediction": None}, {"question_id": "3", "reference": "x"}]
    answers = read_answers(write(*rows))
    assert [(answer.prediction, answer.failed) for answer in answers] == [("the lung", False), ("", True), ("", True)]


def test_empty_options_are_dropped(write):
    (answer,) = read_answers(write({**ROW, "options": ["lung", "", None, float("nan"), "  ", 0]}))
    assert answer.question.options == ("lung", "0")
    (answer,) = read_answers(write({**ROW, "options": None}))
    assert answer.question.options == ()


def test_the_letters_of_options_are_those_of_their_places(write):
    (answer,) = read_answers(write({**ROW, "options": [None, "heart", " ", "lung"]}))
    assert (answer.question.options, answer.question.lettered) == (("heart", "lung"), ("", "heart", "", "lung"))
    (answer,) = read_answers(write({**ROW, "options": ["heart", "lung"]}))
    assert (answer.question.columns, answer.question.lettered) == ((), ("heart", "lung"))


def test_whole_numbers_have_no_fraction_wherever_they_stand(write):
    row = {"question_id": 7.0, "reference": [2.0, "2.0"], "prediction": 1e0, "options": [1.0, 2, 2.5], "organ": 3.0}
    (answer,) = read_answers(write(row))
    assert (answer.question.id, answer.question.references, answer.prediction) == ("7", ("2", "2.0"), "1")
    assert (answer.question.options, answer.question.groups) == (("1", "2", "2.5"), {"organ": "3"})


def test_in_our_own_files_the_last_row_of_a_fingerprint_counts(write):
    first, other = {**ROW, "fingerprint": "f"}, {**ROW, "question_id": "2", "fingerprint": "g"}
    answers = read_answers(write({**first, "prediction": "", "error": "no image"}, other, first))
    assert [(answer.question.id, answer.prediction) for answer in answers] == [("1", "the lung"), ("2", "the lung")]


@pytest.mark.parametrize("tail", ['{"question_id": "2", "predic', '{"question_id": "2", "prediction": "é'])
def test_in_our_own_files_a_last_line_that_was_cut_off_is_ignored(write, tail):
    path = write({**ROW, "fingerprint": "f"})
    with path.open("ab") as file:
        file.write(tail.encode()[: -1 if "é" in tail else None])
    assert [answer.question.id for answer in read_answers(path)] == ["1"]


def test_anywhere_else_damage_is_reported(write):
    path = write(ROW)
    with path.open("a") as file:
        file.write('{"question_id": "2", "predic')
    with pytest.raises(UserError, match=r"answers.jsonl, line 2: not valid JSON"):
        read_answers(path)
    path.write_text('{"broken\n' + json.dumps({**ROW, "fingerprint": "f"}))
    with pytest.raises(UserError, match=r"answers.jsonl, line 1: not valid JSON"):
        read_answers(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("answers.csv", "question_id,question,reference,prediction\n1,Which?,left,left\n"),
        ("answers.tsv", "1\tWhich?\tleft\tleft\n"),
        ("answers.xlsx", "PK\x03\x04"),
        ("answers.txt", "question_id,reference,prediction\n1,left,left\n"),
        ("answers.jsonl", "index\tprediction\n1\tB\n"),
        ("answers", "<!DOCTYPE html>"),
    ],
)
def test_what_is_not_json_is_reported_as_such_and_not_called_cut_off(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=rf"{name} is neither JSON nor JSONL, and score reads JSON and JSONL: .*pandas"):
        read_answers(path)


@pytest.mark.parametrize("indent", [0, 2, "\t"])
def test_one_object_over_several_lines_is_a_row(tmp_path, indent):
    path = tmp_path / "answers.json"
    path.write_text("\n" + json.dumps(ROW, indent=indent))
    assert [answer.question.id for answer in read_answers(path)] == ["1"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, {**ROW, "reference": "heart"}], "rows 0 and 1 have the same question_id '1'"),
        ([ROW, {"question_id": "2", "prediction": "x"}], r"row 1: there is no 'reference'.*question_id, prediction"),
        ([{**ROW, "reference": []}], "row 0: there is no 'reference'"),
        ([{**ROW, "reference": [None]}], "row 0: 'reference' must be text or a number, not null"),
        ([{**ROW, "prediction": ["a"]}], r"row 0: prediction must be text or a number, not \[\"a\"\]"),
        ([{**ROW, "prediction": True}], "row 0: prediction must be text or a number, not true"),
        ([{**ROW, "options": "a|b"}], "row 0: 'options' must be a list"),
        (["text"], "row 0: a row must be an object, not str"),
        ([{"question_id": "1", "reference": "x"}], "no row has a 'prediction'"),
    ],
)
def test_bad_rows_are_named(write, rows, message):
    with pytest.raises(UserError, match=rf"answers.jsonl.*{message}"):
        read_answers(write(*rows))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing.jsonl does not exist"):
        read_answers(tmp_path / "nothing.jsonl")


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("value", [{"0": ["left lung", 3]}, ["left lung", 3]])
def test_candidates(tmp_path, value, indent):
    path = tmp_path / "candidates.json"
    path.write_text(json.dumps(value, indent=indent))
    assert read_candidates(path) == ["left lung", "3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "candidates must be"),
        ('{"0": []}', "candidates must be"),
        ('"left lung"', "candidates must be"),
        ("[[1]]", "a candidate must be text"),
        ("{", "is not JSON"),
    ],
)
def test_bad_candidates_are_named(tmp_path, text, message):
    path = tmp_path / "candidates.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"candidates.json.*{message}"):
        read_candidates(path)
    with pytest.raises(UserError, match=r"candidates .*nothing.json cannot be read"):
        read_candidates(tmp_path / "nothing.json")


def test_in_our_own_files_a_mended_failure_counts(tmp_path):
    path = tmp_path / "predictions.jsonl"
    rows = [
        {"question_id": "q0", "question": "?", "reference": "a", "prediction": "", "fingerprint": "1"},
        {"question_id": "q1", "question": "?", "reference": "a", "prediction": "a", "fingerprint": "2"},
        {"question_id": "q0", "question": "?", "reference": "a", "prediction": "a", "fingerprint": "3"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answers = read_answers(path)
    assert sorted((answer.question.id, answer.prediction) for answer in answers) == [("q0", "a"), ("q1", "a")]


@pytest.mark.parametrize("key", ["reference", "prediction", "question", "question_id", "modality"])
def test_what_is_not_finite_is_not_a_word(write, key):
    for value in (float("inf"), float("-inf"), True):
        with pytest.raises(UserError, match=r"row 0: .* must be text or a number, not"):
            read_answers(write({"question_id": 1, "reference": "a", "prediction": "b"} | {key: value}))


@pytest.mark.parametrize(
    ("text", "reason"), [("[" * 60_000, "nested too deeply"), ("1" * 5001, "more than 4,300 digits")]
)
def test_candidates_that_json_cannot_hold_are_one_line(tmp_path, text, reason):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match=f"candidates .*c.json is not JSON: .*{reason}"):
        read_candidates(tmp_path / "c.json")


def test_a_list_without_rows_is_named(tmp_path):
    (tmp_path / "answers.json").write_text("[]")
    with pytest.raises(UserError, match=r"answers.json holds no rows"):
        read_answers(tmp_path / "answers.json")
