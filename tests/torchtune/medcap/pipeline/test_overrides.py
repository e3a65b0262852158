import pytest
from omegaconf import OmegaConf

from medcap.errors import UserError
from medcap.pipeline.overrides import flat, override_text


def test_nested_keys_become_dotted():
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e.f": None, "g": {}}) == {
        "a.b": 1,
        "a.c.d": [2],
        "e.f": None,
        "g": {},
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5e-05, "5e-05"),
        (3, "3"),
        (True, "true"),
        (None, "null"),
        ("plain words", "plain words"),
        ("3", '"3"'),
        ("true", '"true"'),
        ("a: b", '"a: b"'),
        (["a", 1], '["a", 1]'),
        ({"name": "tiny", "depth": 1}, '{"name": "tiny", "depth": 1}'),
    ],
)
def test_values_come_back_from_the_command_line_as_they_were(value, text):
    assert override_text(value, "key") == text
    assert OmegaConf.to_container(OmegaConf.from_dotlist([f"key={text}"]))["key"] == value


def test_what_torchtune_would_read_otherwise_is_refused():
    for value in ("a=b", "None", ["x=y"]):
        with pytest.raises(UserError, match="cannot be given on a command line: put it into the config file"):
            override_text(value, "overrides.vision")
