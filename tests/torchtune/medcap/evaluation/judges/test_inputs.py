import csv
import json

import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.evaluation.judges.inputs import last_question, read_judged

USER = "<|start_header_id|>user<|end_header_id|>\n\n"
ASSISTANT = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
INSTRUCTION = f"{USER}①①①{ASSISTANT}Chest X-ray.<|eot_id|>{USER}Is there\n a mass? {ASSISTANT}"


def write(tmp_path, text, name="raw.csv", encoding="utf-8-sig"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def test_the_question_is_the_last_user_turn():
    assert last_question(INSTRUCTION) == "Is there\n a mass?"
    assert last_question(f"{USER}①①{ASSISTANT}") == "①①"
    assert last_question(" Is there a mass? ") == "Is there a mass?"
    assert last_question(f"{USER}one<|eot_id|>{USER}two") == "two"


def test_medcaps_raw_table_is_read_as_text(tmp_path):
    rows = [
        ("a.png", INSTRUCTION, "None", "nan"),
        ("b.png", INSTRUCTION, 'a ""quoted"", Läsion', ""),
        ("b.png", INSTRUCTION, "NA", " two\r\nlines "),
    ]
    lines = ["image,instruction,output,generated", *(",".join(f'"{cell}"' for cell in row) for row in rows), ""]
    answers = read_judged(write(tmp_path, "\n".join(lines)))
    question = "Is there\n a mass?"
    assert answers == [
        make_answer("0", question, ("None",), "nan", image="a.png"),
        make_answer("1", question, ('a "quoted", Läsion',), "", image="b.png"),
        make_answer("2", question, ("NA",), " two\r\nlines ", image="b.png"),
    ]
    assert [answer.failed for answer in answers] == [False, True, False]


def test_medcaps_omnimedvqa_table_has_ids_and_modalities(tmp_path):
    header = "image,instruction,output,generated,option_A,modality_type,question_id"
    path = write(tmp_path, f"{header}\na.png,Q?,yes,no,yes,CT,q7\na.png,Q?,yes,no,yes,X-Ray,q7\n", encoding="utf-8")
    answers = read_judged(path)
    assert [(answer.question.id, answer.question.groups) for answer in answers] == [
        ("q7", {"modality": "CT"}),
        ("q7#2", {"modality": "X-Ray"}),
    ]


def test_other_files_are_read_as_files_of_answers(tmp_path):
    rows = [
        {"question_id": "a", "question": "Q?", "reference": "yes", "prediction": "", "error": "bad", "fingerprint": "1"}
        | {"organ": "lung"},
        {"question_id": "b", "question": "R?", "reference": ["yes", "y"], "prediction": "y", "fingerprint": "2"},
        {"question_id": "a", "question": "Q?", "reference": "yes", "prediction": "no", "fingerprint": "1"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = write(tmp_path, text + '{"question_id": "c", "que', "predictions.jsonl", "utf-8")
    assert read_judged(path) == [make_answer("a", "Q?", ("yes",), "no"), make_answer("b", "R?", ("yes", "y"), "y")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("raw.csv", "image,instruction,output\na,b,c\n", r"raw\.csv: there is no column generated \(there are: image"),
        ("raw.csv", "", "there is no column instruction .there are: none"),
        ("raw.csv", "instruction,output,generated\n", "holds no answers"),
        ("raw.csv", "instruction,output,generated\na,b,c\nd,e\n", "line 3: 2 cells under 3 columns"),
        ("raw.csv", 'instruction,output,generated\na,b,"c\n', "line 2: not valid CSV .*cut off"),
        ("raw.csv", "instruction,output,generated\n ,b,c\n", "the row with question_id '0' has no question"),
        ("a.jsonl", '{"reference": "a", "prediction": "b"}', "the row with question_id '0' has no question"),
        ("a.jsonl", '{"question": "Q?", "prediction": "b"}', "row 0: there is no 'reference'"),
        ("a.jsonl", '{"question": "Q?"', "line 1: not valid JSON"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_the_row(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message) as error:
        read_judged(write(tmp_path, text, name, "utf-8"))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_one_that_is_not_text(tmp_path):
    with pytest.raises(UserError, match=r"csv_path=.*none\.csv: no such file"):
        read_judged(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"image,\xff\xfe")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_judged(tmp_path / "binary.csv")


def test_a_long_generation_is_one_cell(tmp_path):
    csv.field_size_limit(131_072)  # as Python starts; reading raises it again
    long = "the lung is clear " * 20_000
    (answer,) = read_judged(write(tmp_path, f"image,instruction,output,generated\na.png,Is it?,yes,{long}\n"))
    assert answer.prediction == long


def test_a_quote_that_runs_over_rows_and_a_repeated_column_are_named(tmp_path):
    heading = "image,instruction,output,generated"
    stray = f'{heading}\n1.jpg,Q?,a,"left\n2.jpg,R?,b,a tube of 5"\n'
    with pytest.raises(UserError, match=r"raw.csv, lines 2 to 3: not valid CSV \(damaged: a quoted field runs over"):
        read_judged(write(tmp_path, stray))
    with pytest.raises(UserError, match="has 2 columns 'output'"):
        read_judged(write(tmp_path, f"{heading},output\n1.jpg,Q?,a,b,c\n"))
    (answer,) = read_judged(write(tmp_path, f'{heading}\n1.jpg,Q?,a,"It is left,\nor right, or 2.jpg"\n'))
    assert answer.prediction == "It is left,\nor right, or 2.jpg"
