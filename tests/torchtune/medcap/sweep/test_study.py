import time

import pytest
from optuna.trial import TrialState

from helpers.sweeps import definition
from medcap.errors import UserError
from medcap.sweep import study as study_module
from medcap.sweep.definition import read_definition
from medcap.sweep.study import FAILED, KILLED, STOPPED, Study


def open_study(folder, **changes):
    return Study(read_definition(definition(folder, **changes)))


def states(study):
    return {slot: [trial.state.name for trial in trials] for slot, trials in study.attempts().items()}


def test_each_combination_is_claimed_once_in_the_order_of_the_file(tmp_path):
    grid = {"seed": [1, 2], "epochs": [3, 4, 5]}
    study = open_study(tmp_path, overrides={}, grid=grid)
    claims = [study.claim("w") for _ in range(6)]
    assert [tuple(claim.overrides.values()) for claim in claims] == [(a, b) for a in "12" for b in "345"]
    assert [claim.overrides for claim in claims] == study.definition.combinations()
    assert [claim.folder.name for claim in claims] == ["0000", "0001", "0002", "0003", "0004", "0005"]
    assert study.claim("w") is None
    assert not study.is_waiting()


def test_a_lost_trial_is_found_by_its_free_lock_and_tried_again_as_often_as_allowed(tmp_path):
    study = open_study(tmp_path, grid={"seed": [1]}, retries=1)
    first = study.claim("a")
    assert study.claim("b") is None
    first.lock.close()
    second = study.claim("b")
    assert (second.slot, second.attempt, second.overrides) == (0, 1, {"seed": "1"})
    second.lock.close()
    assert study.claim("c") is None
    assert states(study) == {0: ["FAIL", "FAIL"]}
    # Who was given up as lost cannot change that any more.
    study.end(first.trial, TrialState.COMPLETE, value=1.0)
    assert states(study) == {0: ["FAIL", "FAIL"]}


def test_a_trial_of_another_machine_is_lost_when_it_shows_no_sign(tmp_path, monkeypatch):
    study = open_study(tmp_path, grid={"seed": [1]})
    claim = study.claim("a")
    claim.trial.set_user_attr("host", "elsewhere")
    claim.lock.close()
    assert study.claim("b") is None
    monkeypatch.setattr(study_module, "STALE_SECONDS", 0.05)
    time.sleep(0.1)
    assert study.claim("b").attempt == 1


def test_a_sign_of_life_is_left_now_and_then(tmp_path, monkeypatch):
    study = open_study(tmp_path, grid={"seed": [1]})
    claim = study.claim("a")
    seen = claim.trial.user_attrs["seen"]
    study.beat(claim)
    assert claim.trial.user_attrs["seen"] == seen
    monkeypatch.setattr(study_module, "BEAT_SECONDS", 0.0)
    study.beat(claim)
    assert claim.trial.user_attrs["seen"] > seen


@pytest.mark.parametrize(("outcome", "again"), [(FAILED, False), (KILLED, True), (STOPPED, True)])
def test_what_is_tried_again(tmp_path, outcome, again):
    study = open_study(tmp_path, grid={"seed": [1]})
    study.end(study.claim("a").trial, TrialState.FAIL, outcome, "a reason")
    assert study.is_waiting() is again


def test_stopping_does_not_use_up_retries(tmp_path):
    study = open_study(tmp_path, grid={"seed": [1]}, retries=0)
    for _ in range(3):
        study.end(study.claim("a").trial, TrialState.FAIL, STOPPED, "stopped")
    assert study.is_waiting()


def test_a_trial_that_two_machines_planned_is_run_once(tmp_path):
    study = open_study(tmp_path, grid={"seed": [1, 2]})
    study.plan()
    study._queue(0, 0, {"seed": "1"})
    study._study.enqueue_trial({"seed": "2"})  # of nobody's plan
    claims = [study.claim("a") for _ in range(2)]
    assert [claim.slot for claim in claims] == [0, 1]
    assert study.claim("a") is None
    assert states(study) == {0: ["RUNNING"], 1: ["RUNNING"]}


def test_a_search_draws_the_same_values_for_a_place_whoever_takes_it(tmp_path):
    space = {"seed": {"low": 1, "high": 10**6}, "optimizer.lr": {"low": 1.0e-6, "high": 1.0, "log": True}}
    options = {"grid": None, "search": space, "trials": 3, "sampler": {"_component_": "optuna.samplers.RandomSampler"}}
    one, other = (open_study(tmp_path / name, **options) for name in "ab")
    drawn = [one.claim("w").overrides for _ in range(3)]
    assert [other.claim("w").overrides for _ in range(3)] == drawn
    assert len({values["seed"] for values in drawn}) == 3
    assert all(1e-6 <= float(values["optimizer.lr"]) <= 1 for values in drawn)


def test_a_repeated_search_trial_keeps_its_values(tmp_path):
    study = open_study(tmp_path, grid=None, search={"seed": {"low": 1, "high": 10**6}}, trials=1)
    first = study.claim("a")
    first.lock.close()
    assert study.claim("b").overrides == first.overrides


@pytest.mark.slow
def test_a_database_is_shared_between_folders(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    one, other = (open_study(tmp_path / name, storage=storage, name="shared") for name in "ab")
    assert [one.claim("a").overrides, other.claim("b").overrides] == [{"seed": "3"}, {"seed": "1"}]


def test_a_storage_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(UserError, match=r"the sweep's storage sqlite:////nowhere/a\.db cannot be opened"):
        open_study(tmp_path, storage="sqlite:////nowhere/a.db")
