import pytest

from helpers.sweeps import definition
from medcap.errors import UserError
from medcap.sweep.checking import check_runs
from medcap.sweep.definition import read_definition

TEST = {"config": "medcap/tiny/generation", "overrides": {"test_vqa": True, "dataset_source": "a.json"}}
HELD_OUT = {"validation_source": "held_out.json"}
SCORE = {"metric": "vqa.scores.accuracy", "direction": "maximize"}


def test_the_packaged_sweep_is_right():
    check_runs(read_definition("medcap/tiny/sweep"))


def test_a_whole_definition_is_right(tmp_path):
    check_runs(read_definition(definition(tmp_path, test=TEST, objective=SCORE)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "generate"}, "there is no recipe generate: did you mean medcap/recipes/generate"),
        ({"recipe": "my/recipe.py"}, "there is no recipe my/recipe.py; medcap ls lists them"),
        ({"config": "medcap/tiny/singel_device"}, "did you mean medcap/tiny/single_device"),
        ({"config": "medcap/tiny/sweep"}, "medcap/tiny/sweep: neither a file nor a packaged configuration"),
        ({"overrides": {"epoch": 1}}, "unknown key epoch: did you mean epochs"),
        ({"grid": {"optimizer.lrr": [1.0]}}, "unknown key optimizer.lrr: did you mean optimizer.lr"),
        ({"grid": {"seed": [1], "batch_size": [2, 0]}, "overrides": HELD_OUT}, "batch_size=0 must be at least 1"),
        ({"overrides": {}}, "validation_loss needs held-out rows: add validation_source=FILE to overrides"),
        (
            {"overrides": HELD_OUT, "pruner": {"_component_": "optuna.pruners.MedianPruner"}},
            "pruner needs values while a trial trains: add eval_every_n_steps=N",
        ),
        (
            {"overrides": HELD_OUT | {"checkpointer.output_dir": "shared"}},
            r"checkpointer.output_dir=shared would be the same for all trials: .* \$\{output_dir\}/checkpoint",
        ),
        ({"test": {**TEST, "overrides": {"test_vqaa": True}}}, None),
        (
            {"test": TEST, "objective": SCORE | {"metric": "slake.scores.accuracy"}},
            "objective.metric=slake.scores.accuracy: add test_slake: true to test.overrides",
        ),
        ({"test": {**TEST, "config": "medcap/generations"}}, "did you mean medcap/generation"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path, changes, message):
    sweep = definition(tmp_path / "out", **changes)
    if message is None:
        sweep["objective"], message = SCORE, "test_vqaa: there is no task of that name"
    with pytest.raises(UserError, match=message):
        check_runs(read_definition(sweep))
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_the_users_own_is_found_next_to_the_sweep(tmp_path, monkeypatch):
    (tmp_path / "my_own_recipe.py").write_text("def recipe_main():\n    pass\n")
    (tmp_path / "my.yaml").write_text("seed: 1\n")
    monkeypatch.chdir(tmp_path)
    own = definition(tmp_path / "out", recipe="my_own_recipe.py", config="my.yaml")
    check_runs(read_definition(own))
    with pytest.raises(UserError, match=r"config=other\.yaml is not a file"):
        check_runs(read_definition(own | {"config": "other.yaml"}))
