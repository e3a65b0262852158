import json

import pytest

pytest.importorskip("pandas")
from helpers.scored_runs import write_run
from medcap.errors import UserError
from medcap.results import confusion, load

GOOD = ["yes", "no", "yes", "no", "yes", "no", "yes", "yes"]
POOR = ["yes", "yes", "no", "no", "", "no", "yes", "Maybe."]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "good", GOOD), write_run(folder / "poor", POOR)


def test_scores_of_several_runs_pivot_into_a_table(runs):
    results = load(*runs)
    head = results.scores.query("headline and group == ''")
    table = head.pivot(index=["task", "protocol"], columns="run", values="value")
    assert table.loc[("vqa", "exact")].to_dict() == {str(runs[0]): 0.875, str(runs[1]): 0.5}
    by_modality = results.scores.query("field == 'modality'").set_index(["run", "group"])["value"]
    assert by_modality[str(runs[0]), "MRI"] == 0.75
    assert (head["low"] < head["value"]).all() and (head["n"] == 8).all()


def test_predictions_have_a_verdict_where_a_protocol_is_named(runs):
    frame = load(runs, protocol="exact").predictions
    own = frame.query("asked == ''")
    assert own.groupby("run")["correct"].mean().to_dict() == {str(runs[0]): 0.875, str(runs[1]): 0.5}
    assert set(frame["asked"]) == {"", "no_image"}
    assert "correct" not in load(runs[0]).predictions


def test_controls_have_what_the_headline_loses(runs):
    (row,) = load(runs[0]).controls.query("headline").to_dict("records")
    assert (row["protocol"], row["control"], row["value"], row["fall"]) == ("exact", "no_image", 0.5, 0.375)


def test_closed_answers_are_counted_by_what_they_are_taken_for(runs):
    pytest.importorskip("sklearn")
    predictions = load(runs[1]).predictions.query("asked == ''")
    table = confusion(predictions)
    assert list(table.index) == ["no", "yes"]
    assert table.loc["yes"].to_dict() == {"": 1, "maybe": 0, "no": 1, "yes": 2}
    assert table.loc["no"].to_dict() == {"": 0, "maybe": 1, "no": 2, "yes": 1}
    with pytest.raises(UserError, match="no closed answers"):
        confusion(predictions.assign(answer_type="OPEN"))


def test_verdicts_and_ratings_are_read_too(runs, tmp_path):
    folder = tmp_path / "judged" / "chat"
    folder.mkdir(parents=True)
    line = {
        "question_id": "q0",
        "order": "published",
        "reference_score": 8.0,
        "prediction_score": 4.0,
        "fingerprint": "f",
    }
    (folder / "ratings.jsonl").write_text(json.dumps(line) + "\n" + '{"question_id": "q1", "cut')
    block = {"n": 1, "scores": {"mean_of_ratios": 0.5}, "intervals": {"mean_of_ratios": {"low": 0.4, "high": 0.6}}}
    metrics = {**block, "judge": "j", "protocol": "relative_score_published", "headline": "mean_of_ratios"}
    metrics["tables"] = {"modality": [{"modality": "CT", **block}]}
    (folder / "ratings_metrics.json").write_text(json.dumps(metrics))
    results = load(folder.parent, runs[0])
    assert results.judged[["task", "prediction_score"]].values.tolist() == [["chat", 4.0]]
    rated = results.scores.query("kind == 'ratings'")
    assert rated[["judge", "group", "value", "low"]].values.tolist() == [["j", "", 0.5, 0.4], ["j", "CT", 0.5, 0.4]]


@pytest.mark.filterwarnings("error")
def test_one_label_alone_is_counted_without_a_warning(tmp_path):
    run = write_run(tmp_path / "all", ["yes"])
    table = confusion(load(run).predictions.query("task == 'vqa' and asked == ''"))
    assert table.to_dict() == {"yes": {"yes": 1}}


def test_another_programs_metrics_beside_tasks_are_passed_over(tmp_path):
    run = write_run(tmp_path / "demo", GOOD)
    tasks = set(load(run).scores["task"])
    (run / "metrics.json").write_text('{"vqa": {"accuracy": 1.0}}')
    assert set(load(run).scores["task"]) == tasks


def test_folders_without_scores_and_damaged_files_are_named(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        load(tmp_path / "none")
    with pytest.raises(UserError, match=r"has no scores: neither it nor a folder in it holds metrics\.json"):
        load(tmp_path)
    (tmp_path / "metrics.json").write_text('{"scores": ')
    with pytest.raises(UserError, match=r"metrics\.json cannot be read"):
        load(tmp_path)
    with pytest.raises(UserError, match="at least one run"):
        load()
