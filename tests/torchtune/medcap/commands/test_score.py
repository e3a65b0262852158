import argparse
import json

import numpy as np
import pytest
from PIL import Image

from medcap.commands import score
from medcap.errors import UserError
from medcap.scoring.protocols.registry import PROTOCOLS

ROWS = [
    {"question_id": 1, "question": "q", "reference": "right lung", "prediction": "lung", "answer_type": "OPEN"},
    {"question_id": 2, "question": "q", "reference": "no", "text": "normal", "answer_type": "CLOSED"},
    {"question_id": 3, "question": "q", "gt": "yes", "prediction": None, "answer_type": "CLOSED"},
    {"question_id": 4, "question": "q", "reference": "yes", "prediction": "Yes.", "answer_type": "CLOSED"},
]
for row in ROWS[1:]:
    row |= {"options": ["yes", "no", ""], "modality": "MR" if row["question_id"] == 4 else "CT"}


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def command(*arguments):
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    score.run(parser.parse_args([str(argument) for argument in arguments]))


def refuse_nan(name):
    raise AssertionError(name)


def test_one_json_object_with_every_protocol(answers, capsys):
    command(answers, "--protocol", "llava_med", "--protocol", "omnimedvqa_qa", "--protocol", "exact")
    out, err = capsys.readouterr()
    result = json.loads(out, parse_constant=refuse_nan)
    assert list(result) == ["llava_med", "omnimedvqa_qa", "exact"]
    llava = result["llava_med"]
    assert (llava["n"], llava["failures"]) == (4, 1)
    assert (llava["open"]["n"], llava["open"]["recall"], llava["open"]["precision"]) == (1, 0.5, 1.0)
    assert llava["closed"] == {"n": 3, "accuracy": pytest.approx(2 / 3)}
    assert llava["overall"] == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    # 1 and 0, and a BLEU of less than 1e-100: Wilson's.
    assert set(llava["intervals"]["open"]) == {"exact_match", "precision", "bleu", "bleu_2", "bleu_3"}
    assert llava["intervals"]["closed"]["accuracy"] == {"low": 0.0, "high": 1.0, "level": 0.95, "draws": 10_000}
    assert llava["notices"] == ["no interval, because they have one row: open.recall, open.f1, open.bleu_1"]
    assert result["exact"]["accuracy"] == 0.25
    omni = result["omnimedvqa_qa"]
    assert (omni["n"], omni["accuracy"]) == (4, 0.5)
    assert omni["notices"] == [
        "rows without options, counted as wrong: 1 of 4 (the first is 1)",
        "rows without a modality, one group of accuracy_by_modality: 1 of 4 (the first is 1)",
    ]
    assert err.splitlines() == [
        f"llava_med: {llava['notices'][0]}",
        *(f"omnimedvqa_qa: {notice}" for notice in omni["notices"]),
    ]


def test_rows_are_written_with_all_protocols(answers, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    command(answers, "--protocol", "llava_med_strict", "--protocol", "medcap_option", "--per-row", out)
    capsys.readouterr()
    lines = [json.loads(line, parse_constant=refuse_nan) for line in out.read_text().splitlines()]
    assert [line["question_id"] for line in lines] == ["1", "2", "3", "4"]
    assert lines[3] == {
        "question_id": "4",
        "llava_med_strict": {"closed": {"accuracy": 1.0}, "correct": True, "value": 1.0},
        "medcap_option": {"accuracy": 1.0, "choice": "yes", "correct": True, "value": 1.0},
    }
    assert lines[0]["llava_med_strict"]["open"]["recall"] == 0.5


def test_candidates_give_the_open_accuracy(answers, tmp_path, capsys):
    candidates = tmp_path / "candidates.json"
    candidates.write_text(json.dumps({"0": ["left lung", "right lung"]}))
    command(answers, "--protocol", "llava_med", "--protocol", "exact", "--candidates", candidates)
    assert json.loads(capsys.readouterr().out)["llava_med"]["open"]["accuracy"] == 0.0
    candidates.write_text(json.dumps(["right lung", "left lung"]))
    command(answers, "--protocol", "llava_med", "--candidates", candidates)
    assert json.loads(capsys.readouterr().out)["llava_med"]["open"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "llavamed"], "did you mean 'llava_med'"),
        (["--protocol", "exact:case=no"], "protocol exact: there is no option 'case'; it has no options"),
        (
            ["--protocol", "medevalkit:slake"],
            "protocol medevalkit:slake: 'slake' is no option: write medevalkit:OPTION",
        ),
        (["--protocol", "medevalkit@abc"], "protocol medevalkit@abc: 'abc' is unknown; there are 2025-06, 564d279"),
        (["--protocol", "exact@strict"], "'strict' is unknown; exact has no variants"),
        (["--protocol", "medevalkit:split=x"], "no option 'split'; its options are dataset, commit, judge"),
        (
            ["--protocol", "medevalkit:dataset=slake", "--protocol", "medevalkit:dataset=vqarad"],
            "medevalkit is named twice with other options",
        ),
        (["--protocol", "vlmevalkit:verbose=1"], "vlmevalkit: verbose=1 is unknown; it is true or false"),
        (["--protocol", "exact", "--candidates", "c.json"], "--candidates is for the protocol llava_med"),
        (["--protocol", "llava_med", "--candidates", "c.json"], "candidates c.json cannot be read"),
    ],
)
def test_what_cannot_be_done_is_reported_and_nothing_is_printed(answers, capsys, arguments, message):
    with pytest.raises(UserError, match=message):
        command(answers, *arguments)
    assert capsys.readouterr().out == ""


def test_the_answers_are_never_overwritten(answers):
    before = answers.read_text()
    with pytest.raises(UserError, match="would replace the file that is scored"):
        command(answers, "--protocol", "exact", "--per-row", answers)
    assert answers.read_text() == before


def test_a_place_that_cannot_be_written_is_reported(answers, tmp_path):
    with pytest.raises(UserError, match=r"--per-row .* cannot be written"):
        command(answers, "--protocol", "exact", "--per-row", tmp_path)


def test_medevalkit_scores_the_verdicts_of_a_judge_by_two_commits(tmp_path, capsys):
    rows = [
        {"question_id": 1, "reference": "liver", "prediction": "liver", "answer_type": "OPEN", "verdict": "RIGHT"},
        {"question_id": 2, "reference": "Yes", "prediction": "Yes", "answer_type": "CLOSED", "verdict": "RIGHT"},
        {"question_id": 3, "reference": "No", "prediction": "Yes", "answer_type": "CLOSED", "verdict": None},
    ]
    path = tmp_path / "verdicts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = (
        "medevalkit:dataset=slake",
        "medevalkit:dataset=slake:commit=25676be",
        "medevalkit_corrected:dataset=slake",
    )
    command(path, *(part for name in names for part in ("--protocol", name)))
    result = json.loads(capsys.readouterr().out, parse_constant=refuse_nan)
    assert list(result) == ["medevalkit", "medevalkit@25676be", "medevalkit_corrected"]
    assert [part["closed"]["accuracy"] for part in result.values()] == [1.0, 0.5, 0.5]
    assert [part["accuracy"] for part in result.values()] == [1.0, pytest.approx(2 / 3), pytest.approx(2 / 3)]
    assert {part["open"]["accuracy"] for part in result.values()} == {1.0}


def test_the_settings_beside_a_predictions_file_say_its_benchmark(tmp_path, capsys):
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps({"question_id": 1, "reference": "no", "prediction": "It is normal."}))
    command(path, "--protocol", "medevalkit")
    assert "rows that name no benchmark" in capsys.readouterr().err
    path.with_suffix(".settings.json").write_text(json.dumps({"task": "vqarad"}))
    command(path, "--protocol", "medevalkit")
    assert json.loads(capsys.readouterr().out)["medevalkit"]["closed"]["accuracy"] == 1.0


def test_a_protocol_is_required_and_the_help_names_all(capsys):
    with pytest.raises(SystemExit):
        command("answers.jsonl")
    with pytest.raises(SystemExit):
        command("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert [name for name in PROTOCOLS if name not in text] == []


def test_masks_of_a_file_are_scored_from_the_command_line(tmp_path, capsys):
    for name, values in (("a", [[255, 255, 0]]), ("b", [[0, 7, 0]]), ("none", [[0, 0, 0]])):
        Image.fromarray(np.array(values, np.uint8)).save(tmp_path / f"{name}.png")
    row = {"image": "ct_1.png", "label": "liver", "reference_mask": "a.png"}
    rows = [
        {"question_id": 1, **row, "prediction_mask": "a.png"},
        {"question_id": 2, **row, "prediction_mask": {"size": [1, 3], "counts": [1, 1, 1]}},
        {"question_id": 3, **row, "reference_mask": "none.png", "prediction_mask": "b.png"},
        {"question_id": 4, **row, "prediction_mask": "gone.png"},
    ]
    path = tmp_path / "masks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command(path, "--protocol", "masks", "--protocol", "medplib_seg", "--per-row", tmp_path / "rows.jsonl")
    out, err = capsys.readouterr()
    result = json.loads(out, parse_constant=refuse_nan)
    masks = result["masks"]
    assert masks["mean_dice"] == masks["per_class"]["liver"]["mean_dice"] == pytest.approx((1 + 2 / 3) / 4)
    assert masks["mean_iou"] == pytest.approx(1.5 / 4)
    assert (masks["false_positive_rate"], masks["n"], masks["failures"], masks["per_class"]["liver"]["n"]) == (
        1,
        4,
        1,
        4,
    )
    medplib = result["medplib_seg"]
    assert medplib["miou"] == medplib["per_modality"]["ct"]["miou"] == pytest.approx(1.5 / 4)
    assert medplib["ciou"] == pytest.approx(3 / 7)
    assert "masks: answers with a mask that cannot be read, which counts 0: 1 of 4 (4: image gone.png does not" in err
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["masks"]["mean_iou"] for line in lines] == [1.0, 0.5, 0.0, 0.0]
