import pytest

from helpers.sweeps import definition
from medcap.errors import UserError
from medcap.sweep.definition import Definition, read_definition


def test_a_grid_is_read_flat_and_as_the_command_line_takes_it(tmp_path):
    overrides = {"epochs": 2, "dataset": {"source": "a.json", "packed": True}, "lr_scheduler": None}
    grid = {"optimizer.lr": [3.0e-5, 1], "trainable": [["vision"], ["vision", "projector"]]}
    sweep = read_definition(definition(tmp_path / "out", overrides=overrides, grid=grid))
    assert sweep.train.overrides == {
        "epochs": "2",
        "dataset.source": "a.json",
        "dataset.packed": "true",
        "lr_scheduler": "null",
    }
    assert sweep.choices == {"optimizer.lr": ["3e-05", "1"], "trainable": ['["vision"]', '["vision", "projector"]']}
    assert (sweep.trials, sweep.keys, sweep.name) == (4, ["optimizer.lr", "trainable"], "out")
    assert Definition.from_dict(sweep.as_dict()) == sweep


def test_a_search_has_ranges_and_choices(tmp_path):
    space = {"seed": {"low": 1, "high": 9}, "optimizer.lr": {"low": 1.0e-5, "high": 1, "log": True}, "epochs": [1, 2]}
    sweep = read_definition(definition(tmp_path, overrides={}, grid=None, search=space, trials=7))
    assert sweep.ranges == {
        "seed": {"low": 1, "high": 9, "step": None, "log": False, "whole": True},
        "optimizer.lr": {"low": 1e-05, "high": 1, "step": None, "log": True, "whole": False},
    }
    assert (sweep.choices, sweep.trials) == ({"epochs": ["1", "2"]}, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gird": {}}, "unknown key gird: did you mean grid?"),
        ({"grid": None}, "write either grid .* or search"),
        ({"search": {"seed": [1]}}, "write either grid .* or search"),
        ({"trials": 3}, "trials belongs to search: a grid runs every combination once"),
        ({"grid": None, "search": {"seed": [1]}}, "trials is missing"),
        ({"grid": {"seed": 3}}, r"grid.seed must be a list of values to try, such as \[1, 2\], not 3"),
        ({"grid": {"seed": [1, 1]}}, "grid.seed lists 1 twice"),
        ({"grid": {"epochs": [1]}}, "epochs stands in overrides and in what is tried: remove one"),
        ({"grid": {"output_dir": ["a"]}}, "grid.output_dir: each trial has its own, remove it"),
        ({"overrides": {"output_dir": "a"}}, "overrides.output_dir: each trial has its own, remove it"),
        ({"overrides": {"vision": "a=b"}}, "overrides.vision='a=b' cannot be given on a command line"),
        ({"grid": {"seed": list(range(400)), "epochs": list(range(400))}, "overrides": {}}, "160,000 combinations"),
        ({"objective": {}}, "objective.direction is missing"),
        ({"objective": {"direction": "down"}}, "objective.direction='down' must be one of minimize, maximize"),
        (
            {"objective": {"direction": "minimize", "metric": "vqa.scores.accuracy"}},
            "is a task's score: add test",
        ),
        ({"test": {"overrides": {"test_vqa": True}}}, "test.config is missing"),
        (
            {"pruner": {"_component_": "optuna.pruners.Median"}},
            "pruner._component_=optuna.pruners.Median cannot",
        ),
        ({"pruner": {"_component_": "optuna.pruners.MedianPruner", "a": 1}}, "unknown key pruner.a"),
    ],
)
def test_mistakes_name_their_key(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read_definition(definition(tmp_path, **changes))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"low": 1}, "search.seed must be a list of values, or low and high"),
        ({"low": 1, "high": 2, "stepp": 1}, "search.seed must be a list of values, or low and high"),
        ({"low": 3, "high": 2}, "low=3 must be below high=2"),
        ({"low": "1e-5", "high": 1}, "search.seed.low='1e-5' must be a number"),
        ({"low": 0, "high": 1, "log": True}, "log goes with low above 0 and without step"),
        ({"low": 0, "high": 1, "step": 0}, "search.seed.step=0 must be above 0"),
    ],
)
def test_mistakes_in_a_range_name_it(tmp_path, space, message):
    with pytest.raises(UserError, match=message):
        read_definition(definition(tmp_path, grid=None, search={"seed": space}, trials=2))


def test_files_that_hold_no_sweep_are_named(tmp_path):
    (tmp_path / "a.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match=r"a\.yaml holds no sweep"):
        read_definition(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match=r"b\.yaml cannot be read as YAML"):
        read_definition(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("output_dri: x\n")
    with pytest.raises(UserError, match=r"c\.yaml: unknown key output_dri: did you mean output_dir\?"):
        read_definition(tmp_path / "c.yaml")
    with pytest.raises(UserError, match="nothing: neither a file nor a packaged sweep; there is medcap/tiny/sweep"):
        read_definition("nothing")


def test_what_may_change_between_calls_is_not_in_the_fingerprints(tmp_path):
    one = read_definition(definition(tmp_path)).fingerprints()
    assert read_definition(definition(tmp_path, workers=3, retries=0)).fingerprints() == one
    other = read_definition(definition(tmp_path, grid={"seed": [1]})).fingerprints()
    assert [name for name in one if one[name] != other[name]] == ["grid"]
