"""The commands that put runs side by side: summarize, leaderboard, agree, and compare with more than two."""

import argparse
import json
from pathlib import Path

import pytest

from helpers.scored_runs import write_run
from medcap.commands import agree, compare, leaderboard, summarize
from medcap.errors import UserError
from medcap.evaluation.results_table import append_result
from medcap.evaluation.run_files import find_tasks

GOOD = ["yes", "no", "yes", "no", "yes", "no", "yes", "yes"]
POOR = ["yes", "yes", "no", "no", "", "no", "yes", "Maybe."]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "good", GOOD), write_run(folder / "poor", POOR, controls=())


def run(module, *arguments):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.run(parser.parse_args(list(map(str, arguments))))


def printed(capsys):
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_summarize_prints_a_column_for_each_run(runs, capsys):
    run(summarize, *runs, "--by", "modality")
    lines = printed(capsys)
    assert lines[0] == f"vqa {summarize._short(str(runs[0]))} {summarize._short(str(runs[1]))}"
    assert lines[1].startswith("exact accuracy 0.8750 [0.6250, 1.0000] 0.5000 [")
    assert lines[4].startswith("exact accuracy, modality MRI 0.7500 [") and lines[4].count("n=4") == 2
    assert lines[5] == f"note: {runs[1]}: of 8 rows, 1 without an answer"


def test_summarize_prints_json_and_names_a_task_that_no_run_has(runs, capsys):
    run(summarize, runs[0], "--json")
    rows = json.loads(capsys.readouterr().out)
    assert [(row["score"], row["value"], row["headline"]) for row in rows] == [
        ("accuracy", 0.875, True),
        ("token_f1", 0.875, False),
    ]
    with pytest.raises(UserError, match="--task slake: none of the runs"):
        run(summarize, runs[0], "--task", "slake")
    with pytest.raises(UserError, match="--by colour: rows are grouped by modality, question_type, answer_type, organ"):
        run(summarize, runs[0], "--by", "colour")


def test_a_run_that_is_named_twice_is_taken_once_and_a_folder_of_runs_is_refused(runs, tmp_path, capsys):
    twice = find_tasks([runs[0], runs[0] / "vqa", Path(runs[0], "..", Path(runs[0]).name)])
    assert [(folder.run, folder.task) for folder in twice] == [(str(runs[0]), "vqa")]
    parent = tmp_path / "parent"
    write_run(parent / "mine", GOOD)
    (parent / "mine" / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"parent is a folder of runs: name the runs in it, such as .*mine$"):
        find_tasks([parent])
    page = tmp_path / "page.html"
    run(leaderboard, runs[0], runs[0] / "results.csv", "--out", page)
    assert "1 result in 1 list." in page.read_text()
    with pytest.raises(UserError, match="would replace the file"):
        run(leaderboard, runs[0], "--out", runs[0] / "results.csv")


def test_summarize_says_that_runs_were_asked_other_questions(runs, tmp_path, capsys):
    run(summarize, runs[0], write_run(tmp_path / "shorter", GOOD[:6]))
    lines = printed(capsys)
    assert "note: the runs were asked other questions: their dataset files differ" in lines
    assert any(line.startswith("note: the runs have different numbers of rows: 8 of /") for line in lines)


def test_three_runs_are_compared_in_pairs_with_one_correction(runs, tmp_path, capsys):
    third = write_run(tmp_path / "third", ["no", "yes"] * 4)
    run(compare, *runs, third)
    lines = printed(capsys)
    assert lines[0] == "protocol exact, 8 common rows, 3 comparisons"
    assert lines[2].startswith("A 87.50 % 62.50 % to 100.00 % 0")
    assert [line.split(" ")[:3] for line in lines[6:9]] == [
        ["B", "minus", "A"],
        ["C", "minus", "A"],
        ["C", "minus", "B"],
    ]
    # A has 7 right and C none: p = 2 / 2**7, times 3 comparisons.
    assert "0.0156 0.0469 A is better by 87.5 points: the interval excludes 0." in lines[7]
    run(compare, *runs, third, "--to-first", "--json")
    result = json.loads(capsys.readouterr().out)
    assert [(pair["p"], pair["p_holm"]) for pair in result["pairs"]][1] == (0.015625, 0.03125)
    assert [each["score"] for each in result["runs"]] == [0.875, 0.5, 0.0]


def test_rows_that_not_every_run_has_are_left_out_and_counted(runs, tmp_path, capsys):
    shorter = write_run(tmp_path / "shorter", GOOD[:6])
    run(compare, *runs, shorter)
    lines = printed(capsys)
    assert lines[:2] == [f"note: rows of {name} that not every run has, not compared: 2" for name in runs]
    other = tmp_path / "other.jsonl"
    other.write_text('{"question_id": "x", "question": "q", "reference": "yes", "prediction": "yes"}\n')
    with pytest.raises(UserError, match="have no question_id in common"):
        run(compare, *runs, other)
    other.write_text('{"question_id": "q0", "question": "q", "reference": "yes", "prediction": "yes"}\n')
    with pytest.raises(UserError, match="its question differs"):
        run(compare, *runs, other)


def test_the_leaderboard_ranks_what_is_comparable(runs, tmp_path, capsys):
    other = write_run(tmp_path / "shorter", GOOD[:6])
    page = tmp_path / "deep" / "page.html"
    run(leaderboard, *(folder / "results.csv" for folder in (*runs, other)), "--out", page, "--title", "Our <runs>")
    assert capsys.readouterr().out.strip() == str(page)
    html = page.read_text()
    assert "Our &lt;runs&gt;" in html and "vqa, 8 rows, exact" in html and "vqa, 6 rows, exact" in html
    first, second = html.index(str(runs[0])), html.index(str(runs[1]))
    assert first < second
    assert "87.5 %" in html and "accuracy, no image" in html and "1 missing" in html
    assert "in lists of their own" in html


def test_a_list_of_one_row_says_so(tmp_path):
    page = tmp_path / "page.html"
    run(leaderboard, write_run(tmp_path / "one", GOOD[:1]) / "results.csv", "--out", page)
    assert "vqa, 1 row, exact" in page.read_text()


def test_runs_of_one_judge_are_ranked_together_and_equal_ones_share_a_place(tmp_path):
    table = tmp_path / "results.csv"
    for name, judge, value in (("a", "j", 0.5), ("b", "j", 0.7), ("c", "j", 0.7), ("d", "other", 1.2)):
        row = {
            "output_dir": name,
            "task": "chat",
            "protocol": "relative_score_both",
            "settings": name,
            "judge": judge,
            "n": 4,
        }
        append_result(
            table, {**row, "relative_score_both.mean_of_ratios": value, "relative_score_both.reference_score": 8.5}
        )
    run(leaderboard, table, "--out", tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    listed = html[html.index("judge j") : html.index("judge other")]
    places = [
        line.strip() for line in listed.splitlines() if line.startswith('<td class="number">') and "%" not in line
    ]
    assert places[::2] == [f'<td class="number">{place}</td>' for place in (1, 1, 3)]
    assert "8.500" in listed and "120.0 %" in html


def test_a_table_that_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        run(leaderboard, tmp_path / "results.csv")
    (tmp_path / "results.csv").write_text("output_dir,task,protocol,settings\n")
    with pytest.raises(UserError, match="holds no run"):
        run(leaderboard, tmp_path / "results.csv")


def test_models_agree_on_closed_answers_and_judges_on_verdicts(runs, tmp_path, capsys):
    pytest.importorskip("sklearn")
    run(agree, runs[0] / "vqa", runs[1] / "vqa")
    lines = printed(capsys)
    assert lines[0] == "8 common rows; 0 only in the first, 0 only in the second"
    assert lines[1].startswith("answers: same 50.0 % [")
    assert lines[2] == "first \\ second (none) maybe no yes"
    files = []
    for name, verdicts in (("a", ["RIGHT", "WRONG", "RIGHT", "WRONG"]), ("b", ["RIGHT", "WRONG", "WRONG", None])):
        files.append(tmp_path / f"{name}.jsonl")
        rows = [{"question_id": str(index), "verdict": verdict} for index, verdict in enumerate(verdicts)]
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(agree, *files, "--json")
    found = json.loads(capsys.readouterr().out)["verdicts"]
    assert (found["labels"], found["same"]["value"]) == (["NONE", "RIGHT", "WRONG"], 0.5)
    with pytest.raises(UserError, match="of different kinds"):
        run(agree, files[0], runs[0] / "vqa")


def test_judges_agree_on_scores_and_on_the_better_answer(tmp_path, capsys):
    pytest.importorskip("sklearn")
    files = []
    for name, scores in (("a", [(8, 6), (7, 9), (5, 5)]), ("b", [(9, 7), (8, 8), (6, 6)])):
        files.append(tmp_path / f"{name}.jsonl")
        rows = [
            {"question_id": str(index), "order": "published", "reference_score": one, "prediction_score": two}
            for index, (one, two) in enumerate(scores)
        ]
        rows.append({"question_id": "unrated", "reference_score": None, "prediction_score": None})
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(agree, *files)
    lines = printed(capsys)
    assert lines[1].startswith("reference_score: second minus first +1.000 [+1.000, +1.000], Spearman 1.000")
    assert lines[3].startswith("preferred: same 66.7 %")
