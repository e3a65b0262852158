import json
import math

import pytest

from medcap.sweep.definition import Objective
from medcap.sweep.objective import Log, NoValueError, final_value, watched


def write_log(folder, rows):
    (folder / "log").mkdir(exist_ok=True)
    path = folder / "log" / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_log_is_followed_while_it_grows_and_when_it_is_replaced(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = Log(path, "validation_loss")
    assert log.news() == []
    path.write_text('{"step": 1, "loss": 9}\n{"step": 1, "validation_loss": 3.5}\n{"step": 2, "valid')
    assert log.news() == [(1, 3.5)]
    with path.open("a") as file:
        file.write('ation_loss": null}\n')
    ((step, value),) = log.news()
    assert step == 2 and math.isnan(value)
    assert log.news() == []
    # A run that continues from step 1 drops later rows by putting another file in place.
    other = tmp_path / "other"
    other.write_text('{"step": 1, "validation_loss": 3.5}\n{"step": 2, "validation_loss": 2.5}\n')
    other.replace(path)
    assert log.news() == []
    with path.open("a") as file:
        file.write('{"step": 3, "validation_loss": 1.5}\n')
    assert log.news() == [(3, 1.5)]
    assert log.values == {1: 3.5, 2: 2.5, 3: 1.5}


@pytest.mark.parametrize(("take", "value"), [("last", 2.0), ("min", 1.0), ("max", 4.0)])
def test_one_value_of_the_log_is_taken(tmp_path, take, value):
    write_log(tmp_path, [{"step": step, "validation_loss": loss} for step, loss in enumerate((4.0, None, 1.0, 2.0))])
    assert final_value(Objective("validation_loss", take, "minimize"), tmp_path) == value


def test_a_score_is_found_by_its_path_even_with_dots_in_a_key(tmp_path):
    (tmp_path / "vqa").mkdir()
    scores = {"scores": {"accuracy": 0.5, "llava_med.open": 0.25}, "n": 3, "task": "vqa"}
    (tmp_path / "vqa" / "metrics.json").write_text(json.dumps(scores))
    for path, value in {"scores.accuracy": 0.5, "scores.llava_med.open": 0.25, "n": 3.0}.items():
        assert final_value(Objective(f"vqa.{path}", "last", "maximize"), tmp_path) == value
    for path in ("scores.f1", "task", "scores"):
        with pytest.raises(NoValueError, match=f"vqa/metrics.json has no finite number at {path}"):
            final_value(Objective(f"vqa.{path}", "last", "maximize"), tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(NoValueError, match=r"log/metrics.jsonl has no validation_loss"):
        final_value(Objective("validation_loss", "last", "minimize"), tmp_path)
    with pytest.raises(NoValueError, match=r"vqa/metrics.json was not written"):
        final_value(Objective("vqa.n", "last", "maximize"), tmp_path)
    write_log(tmp_path, [{"step": 1, "loss": 1.0}, {"step": 2, "loss": None}])
    with pytest.raises(NoValueError, match=r"the last loss in .* is not finite"):
        final_value(Objective("loss", "min", "minimize"), tmp_path)


def test_the_watched_loss_gets_a_sign_when_higher_scores_are_better():
    assert watched(Objective("loss", "last", "maximize")) == ("loss", 1)
    assert watched(Objective("vqa.n", "last", "maximize")) == ("validation_loss", -1)
    assert watched(Objective("vqa.n", "last", "minimize")) == ("validation_loss", 1)
