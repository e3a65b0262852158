import argparse
import json
import re

import pytest

from medcap.commands import compare
from medcap.errors import UserError


def write(path, predictions, start=0, reference="yes", **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"question_id": f"q{start + inside}", "question": "q?", "reference": reference, "prediction": text, **more}
        for inside, text in enumerate(predictions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*arguments):
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    compare.run(parser.parse_args(list(map(str, arguments))))


@pytest.fixture
def files(tmp_path):
    """B has 10 rows right that A has wrong, and 2 the other way round."""
    first = write(tmp_path / "a" / "vqarad" / "predictions.jsonl", ["yes"] * 2 + ["no"] * 10 + ["yes"] * 28)
    second = write(tmp_path / "b.jsonl", ["no"] * 2 + ["Yes."] * 10 + ["yes"] * 27 + [""])
    return first, second


def test_the_table_has_scores_difference_discordant_rows_and_p(files, capsys):
    first, second = files
    run(first, second)
    printed = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert lines[:3] == ["protocol exact", f"accuracy, A 75.00 % {first}", f"accuracy, B 92.50 % {second}"]
    assert re.fullmatch(
        r"B minus A \+17\.50 95 % interval \S+ to \+3\d\.\d\d \(paired bootstrap, 10,000 draws\)", lines[3]
    )
    assert lines[4:] == [
        "rows 40 without an answer: 0 in A, 1 in B",
        "A right, B wrong 3",
        "A wrong, B right 10",
        "p 0.09229 McNemar, exact, two-sided",
        "No proof of a difference: the interval includes 0.",
    ]


def test_json_prints_one_object(files, capsys):
    run(*files, "--json")
    result = json.loads(capsys.readouterr().out)
    assert (result["a"]["file"], result["a"]["score"]) == (str(files[0]), 0.75)
    assert (result["a_right_b_wrong"], result["a_wrong_b_right"], result["p"]) == (3, 10, 0.09228515625)
    assert result["difference"]["draws"] == 10_000
    assert result["test"] == "mcnemar_exact"


def test_rows_of_one_side_are_reported(files, tmp_path, capsys):
    longer = write(tmp_path / "c.jsonl", ["yes"] * 30, start=20)
    run(files[0], longer)
    printed = capsys.readouterr().out
    assert "note: rows only in A, not compared: 20 (the first: q0)" in printed
    assert "note: rows only in B, not compared: 10 (the first: q40)" in printed


@pytest.mark.slow
def test_rows_without_a_verdict_get_a_p_of_random_signs(tmp_path, capsys):
    first = write(tmp_path / "a.jsonl", ["lung"] * 12, reference="left lung", answer_type="OPEN")
    second = write(tmp_path / "b.jsonl", ["left lung"] * 12, reference="left lung", answer_type="OPEN")
    run(first, second, "--protocol", "llava_med")
    printed = capsys.readouterr().out
    assert "random signs, 10,000 draws" in printed
    assert "A right, B wrong" not in printed
    assert "B is better by 50.0 points: the interval excludes 0." in printed


@pytest.mark.parametrize("inside", ["", "vqarad", "vqarad/predictions.jsonl"])
def test_a_run_a_task_and_a_file_are_found(files, tmp_path, inside):
    assert compare.find_predictions(tmp_path / "a" / inside) == files[0]


def test_what_cannot_be_found_says_what_is_there(files, tmp_path):
    with pytest.raises(UserError, match="nothing does not exist"):
        compare.find_predictions(tmp_path / "nothing")
    (tmp_path / "empty" / "log").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no predictions.jsonl, .*; there is: log/"):
        compare.find_predictions(tmp_path / "empty")
    write(tmp_path / "a" / "slake" / "predictions.jsonl", ["yes"])
    with pytest.raises(UserError, match=r"holds the answers of 2 tasks: name one of .*a/slake, .*a/vqarad"):
        compare.find_predictions(tmp_path / "a")


def test_an_unknown_protocol_is_an_error(files):
    with pytest.raises(UserError, match="there is no protocol 'exakt', did you mean 'exact'"):
        run(*files, "--protocol", "exakt")


def test_a_difference_of_one_row_is_not_certain(tmp_path, capsys):
    run(write(tmp_path / "a.jsonl", ["yes"]), write(tmp_path / "b.jsonl", ["no"]))
    printed = " ".join(capsys.readouterr().out.split())
    assert "B minus A -100.00 95 % interval -100.00 to -20.65 (Wilson: every row differs alike)" in printed
    assert "No clear difference: the interval excludes 0, but p is 1." in printed
