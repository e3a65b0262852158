import gc
import re
import sys

import pytest
from omegaconf import OmegaConf

from medcap.configs import packaged_configs
from medcap.configuration import Component, Section, Value, check, recipe
from medcap.errors import UserError

KEYS = {
    "epochs": Value((int,), 1, minimum=1),
    "lr": Value((float,), 0.1),
    "name": Value((str,)),
    "style": Value((str,), "a", choices=("a", "b")),
    "inner": Section({"path": Value((str,), None)}),
    "part": Component(passed=1, optional=True),
}


def build_part(given, size, depth=2):
    return given, size, depth


PART = f"{__name__}.build_part"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or type(sys)(__name__))
    monkeypatch.setattr(sys.modules[__name__], "build_part", build_part, raising=False)


def checked(**given):
    return check(OmegaConf.create({"name": "x"} | given), KEYS)


def test_defaults_are_filled_in_and_numbers_read_as_meant():
    cfg = checked(lr="2e-5")
    assert (cfg.epochs, cfg.lr, cfg.style, cfg.inner.path, cfg.part) == (1, 2e-5, "a", None, None)
    assert isinstance(checked(lr=1).lr, float)


def test_interpolation_is_resolved():
    assert checked(inner={"path": "${name}/y"}).inner.path == "x/y"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 2}, "unknown key epoch: did you mean epochs?"),
        ({"zzz": 2}, "unknown key zzz"),
        ({"inner": {"pth": 2}}, "unknown key inner.pth: did you mean inner.path?"),
        ({"inner": 3}, "inner holds further keys"),
        ({"epochs": True}, "epochs=True must be of type int"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"style": "c"}, "style='c' must be one of a, b"),
        ({"name": None}, "name is missing: add name=..."),
        ({"inner": {"path": "${nowhere}"}}, "refers to something that is not there"),
        ({"part": {"size": 2}}, "part._component_ is missing"),
        ({"part": {"_component_": "medcap.nothing", "size": 2}}, "part._component_=medcap.nothing cannot be found"),
        ({"part": {"_component_": PART}}, "part.size is missing"),
        ({"part": {"_component_": PART, "size": 1, "dept": 2}}, "unknown key part.dept: did you mean part.depth?"),
        ({"part": {"_component_": PART, "size": 1, "given": 2}}, "unknown key part.given"),
    ],
)
def test_mistakes_name_the_key(given, message):
    with pytest.raises(UserError) as caught:
        checked(**given)
    assert message in str(caught.value)


def test_an_optional_component_can_be_removed_on_the_command_line():
    assert checked(part={"_component_": None, "size": 3}).part is None


def run(monkeypatch, *arguments, body=lambda cfg: None):
    monkeypatch.setattr(sys, "argv", ["recipe", *arguments])
    with pytest.raises(SystemExit) as end:
        recipe(KEYS)(body)()
    return end.value.code


def test_a_file_and_overrides_reach_the_recipe(monkeypatch, tmp_path):
    (tmp_path / "c.yaml").write_text("name: x\nepochs: 3\n")
    seen = []
    code = run(monkeypatch, "--config", str(tmp_path / "c.yaml"), "epochs=4", "inner.path=p", body=seen.append)
    assert not code
    assert (seen[0].epochs, seen[0].inner.path) == (4, "p")


def test_what_the_imports_left_behind_is_out_of_the_garbage_collectors_sight(monkeypatch, tmp_path):
    (tmp_path / "c.yaml").write_text("name: x\n")
    gc.unfreeze()
    run(monkeypatch, "--config", str(tmp_path / "c.yaml"), body=lambda cfg: None)
    assert gc.get_freeze_count() > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a configuration"),
        (["--config"], "name a configuration"),
        (["--config", "medcap/tiny/single"], "did you mean medcap/tiny/single_device?"),
        (["--config", "nowhere.yaml"], "neither a file nor a packaged configuration"),
        (["--config", "{file}", "--epochs", "4"], "cannot be read"),
        (["--config", "{file}", "epochs"], "cannot be read"),
        (["--config", "{file}", "epochs=a=b"], "cannot be read"),
        (["--config", "{broken}"], "cannot be read"),
    ],
)
def test_an_unreadable_command_line_is_one_line(monkeypatch, tmp_path, capsys, arguments, message):
    (tmp_path / "c.yaml").write_text("name: x\n")
    (tmp_path / "broken.yaml").write_text("name: [x\n")
    names = {"file": tmp_path / "c.yaml", "broken": tmp_path / "broken.yaml"}
    assert run(monkeypatch, *(argument.format(**names) for argument in arguments)) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_an_error_that_is_not_foreseen_is_one_line(monkeypatch, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("name: x\n")

    def broken(_):
        raise ValueError("a bug")

    assert run(monkeypatch, "--config", str(tmp_path / "c.yaml"), body=broken) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"medcap: recipe --config {tmp_path}/c.yaml ended in an error that was not foreseen")
    assert "ValueError: a bug (medcap/test_configuration.py, line " in line


@pytest.mark.parametrize("name", packaged_configs())
def test_every_packaged_configuration_passes_its_recipes_check(name):
    from medcap.recipes.generate import KEYS as GENERATE
    from medcap.recipes.judge import KEYS as JUDGE
    from medcap.training.keys import DISTRIBUTED_KEYS, TRAINING_KEYS

    train = DISTRIBUTED_KEYS if name.endswith("distributed") else TRAINING_KEYS
    keys = {"generation": GENERATE, "judge": JUDGE}.get(name.rpartition("/")[2], train)
    text = packaged_configs()[name].read_text(encoding="utf-8")
    check(OmegaConf.create(text), keys, flags=("test_",))
    assert text.startswith("# ")
    for wanted in ("# Download first", r"tune run (--nproc_per_node \d )?medcap/recipes/", "# Memory"):
        assert re.search(wanted, text)
