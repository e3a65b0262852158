import pytest
from omegaconf import OmegaConf

from medcap.errors import UserError
from medcap.merge_overrides import override

VALUES = {
    "epochs": 3,
    "trainable": ["vision", "projector"],
    "vision": {"name": "tiny", "width": 32},
    "optimizer": {"_component_": "torch.optim.AdamW", "lr": 0.1, "betas": [0.9, 0.98]},
    "checkpointer": {"checkpoint_dir": "llm", "files": None},
    "output_dir": "out",
    "log": "${output_dir}/log",
}


def overridden(*words):
    return OmegaConf.to_container(override(VALUES, words), resolve=True)


@pytest.mark.parametrize(
    ("word", "key", "expected"),
    [
        ("epochs=4", "epochs", 4),
        ("output_dir=there", "log", "there/log"),
        ("optimizer.lr=2e-5", "optimizer.lr", 2e-5),
        ("optimizer=torch.optim.SGD", "optimizer._component_", "torch.optim.SGD"),
        ("vision={width: 64}", "vision", {"name": "tiny", "width": 64}),
        ("checkpointer.files=[a, b]", "checkpointer.files", ["a", "b"]),
        # One kind over another replaces it.
        ("trainable={vision: {lr: 1}}", "trainable", {"vision": {"lr": 1}}),
        ("trainable.vision=1", "trainable", {"vision": 1}),
        ("trainable=vision", "trainable", "vision"),
        ("vision=[a, b]", "vision", ["a", "b"]),
        ("vision=biomedclip", "vision", "biomedclip"),
        ("checkpointer=[a]", "checkpointer", ["a"]),
        ("checkpointer=llm", "checkpointer", "llm"),
        ("optimizer.betas={a: 1}", "optimizer.betas", {"a": 1}),
        ("epochs=[1]", "epochs", [1]),
        ("epochs={a: 1}", "epochs", {"a": 1}),
        ("epochs.a.b=1", "epochs", {"a": {"b": 1}}),
        ("output_dir.a=1", "output_dir", {"a": 1}),
        ("vision.width.a=1", "vision.width", {"a": 1}),
        ("optimizer={_component_: torch.optim.SGD, lr: 1}", "optimizer", {"_component_": "torch.optim.SGD", "lr": 1}),
        ("optimizer=[a]", "optimizer", ["a"]),
    ],
)
def test_an_override_wins_whatever_kind_it_replaces(word, key, expected):
    words = [word] if word.startswith("output_dir.") is False else [word, "log=x"]
    found = overridden(*words)
    for part in key.split("."):
        found = found[part]
    assert found == expected


def test_an_entry_of_a_list_can_be_changed():
    listed = {"data": {"parts": [{"file": "a", "weight": 1}, {"file": "b=1"}]}, "log": "${data.parts.0.file}"}

    def changed(*words):
        return OmegaConf.to_container(override(listed, words), resolve=True)["data"]["parts"]

    assert changed("data.parts.1.weight=2e-1") == [{"file": "a", "weight": 1}, {"file": "b=1", "weight": 0.2}]
    assert changed("data.parts.0={file: c}", "data.parts.0.weight=None")[0] == {"file": "c", "weight": None}
    assert changed("data.parts=[{file: c}]", "data.parts.0.weight=3") == [{"file": "c", "weight": 3}]
    assert changed("data.parts.0.weight=3", "data.parts=[{file: c}]") == [{"file": "c"}]
    with pytest.raises(UserError, match=r"at data.parts.2.weight=1: data.parts has 2 entries$"):
        changed("data.parts.2.weight=1")


def test_a_key_can_be_removed():
    assert "lr" not in overridden("~optimizer.lr")["optimizer"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["epochs=4", "epochs"], "at epochs: "),
        (["epochs=4", "output_dir=a=b"], "at output_dir=a=b: "),
        (["epochs=4", "vision={name: [}"], "at vision={name: [}: "),
        (["~nothing"], "at ~nothing: "),
        (["epochs=4", "trainable[0]=x"], "at trainable[0]=x: "),
        (["epochs=4", "trainable=[a]", "trainable={a: 1}", "epochs=5"], "at trainable={a: 1}: "),
    ],
)
def test_what_cannot_be_applied_is_named(words, told):
    with pytest.raises(UserError) as error:
        override(VALUES, words)
    assert str(error.value).startswith("the command line cannot be read")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_the_values_stay_as_they_were():
    before = str(VALUES)
    overridden("trainable={a: 1}", "~epochs", "vision=x")
    assert str(VALUES) == before
