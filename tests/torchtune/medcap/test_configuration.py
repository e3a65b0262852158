import gc
import re
import sys
from typing import Annotated, Any, Literal

import pytest
from omegaconf import OmegaConf
from pydantic import Field

from medcap.configs import packaged_configs
from medcap.configuration import ComponentRule, Configuration, NamedSections, Number, OneOf, SectionList, check
from medcap.entry_point import read_arguments, recipe
from medcap.errors import UserError
from medcap.instantiate import build, check_arguments


class Inner(Configuration):
    path: str | None = None


class Keys(Configuration):
    epochs: int = Field(1, ge=1)
    lr: Number = 0.1
    name: str
    style: Literal["a", "b"] = "a"
    table: Annotated[str, OneOf(("c", "d"))] = "c"
    inner: Inner
    part: Annotated[dict[str, Any] | None, ComponentRule(passed=1, optional=True)] = None


def build_part(given, size, depth=2):
    return given, size, depth


PART = f"{__name__}.build_part"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or type(sys)(__name__))
    monkeypatch.setattr(sys.modules[__name__], "build_part", build_part, raising=False)


def checked(**given):
    return check(OmegaConf.create({"name": "x"} | given), Keys)


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
        ({"zzz": 2}, "unknown key zzz: docs/keys.md lists the keys"),
        ({"inner": {"pth": 2}}, "unknown key inner.pth: did you mean inner.path?"),
        ({"inner": 3}, "inner holds further keys"),
        ({"epochs": True}, "epochs=True must be of type int"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"style": "c"}, "style='c' must be one of a, b"),
        ({"table": "a"}, "table='a' must be one of c, d"),
        ({"inner": [3]}, "inner holds further keys (path), not [3]"),
        ({"name": None}, "name is missing: add name=..."),
        ({"inner": {"path": "${nowhere}"}}, "refers to something that is not there"),
        ({"part": {"size": 2}}, "part._component_ is missing"),
        ({"part": {"_component_": "medcap.nothing", "size": 2}}, "part._component_=medcap.nothing cannot be found"),
        ({"part": {"_component_": "medcap.models.mlpp"}}, "no attribute 'mlpp'; did you mean medcap.models.mlp?"),
        ({"part": {"_component_": "x"}}, "part._component_=x must be a dotted name, such as medcap.models.mlp"),
        ({"part": {"_component_": PART}}, "part.size is missing"),
        ({"part": {"_component_": PART, "size": 1, "dept": 2}}, "unknown key part.dept: did you mean part.depth?"),
        ({"part": {"_component_": PART, "size": 1, "given": 2}}, "unknown key part.given"),
    ],
)
def test_mistakes_name_the_key(given, message):
    with pytest.raises(UserError) as caught:
        checked(**given)
    assert message in str(caught.value)


def test_all_mistakes_of_a_configuration_are_reported_in_one_line():
    with pytest.raises(UserError) as caught:
        check(OmegaConf.create({"epoch": 2, "epochs": 0, "lr": "fast", "inner": {"path": 1}, "part": PART, 5: 6}), Keys)
    assert str(caught.value) == (
        "unknown key epoch: did you mean epochs?; unknown key 5: docs/keys.md lists the keys; epochs=0 must be at"
        " least 1; lr='fast' must be of type float; inner.path=1 must be of type str; part.size is missing: add"
        " part.size=..."
    )


def test_all_mistakes_in_sections_and_in_arguments_are_reported():
    with pytest.raises(UserError) as caught:
        check_arguments(build_part, {"size": 1, "dept": 2, "zzz": 3}, "part", passed=1)
    assert str(caught.value) == (
        "unknown key part.dept: did you mean part.depth?; unknown key part.zzz: build_part takes size, depth; ~part.zzz"
        " takes it out of a configuration"
    )

    def sized(size: int, depth: int, name: str) -> None: ...

    with pytest.raises(UserError) as caught:
        check_arguments(sized, {"size": "a", "depth": "b"}, "part")
    assert str(caught.value) == (
        "part.name is missing: add part.name=...; part.size='a' must be of type int; part.depth='b' must be of type int"
    )

    class Rate(Configuration):
        lr: Number | None = None

    with pytest.raises(UserError) as caught:
        NamedSections(Rate).checked(
            {"words": {"lrr": 1}, "vision": {"lr": "fast"}, "projector": None, "box": 3}, "trained"
        )
    assert str(caught.value) == (
        "unknown key trained.words.lrr: did you mean trained.words.lr?; trained.vision.lr='fast' must be of type float;"
        " trained.box holds further keys (lr), not 3"
    )
    with pytest.raises(UserError) as caught:
        SectionList(Rate).checked([{"lr": 1}, {"lrr": 1}, 5], "sets")
    assert str(caught.value) == (
        "unknown key sets.1.lrr: did you mean sets.1.lr?; sets.2 holds further keys (lr), not 5"
    )


def test_keys_with_a_known_prefix_are_kept_apart_and_written():
    cfg = check(OmegaConf.create({"name": "x", "test_a": True}), Keys, ("test_",))
    assert cfg.flags == {"test_a": True} and cfg.to_yaml().startswith("test_a: true\nepochs: 1\nlr: 0.1\nname: x\n")
    for key, hint in (("tes_a", r"did you mean test_a\?"), ("other_a", "docs/keys.md lists the keys")):
        with pytest.raises(UserError, match=f"^unknown key {key}: {hint}$"):
            check(OmegaConf.create({"name": "x", key: True}), Keys, ("test_",))


def test_an_optional_component_can_be_removed_on_the_command_line():
    assert checked(part={"_component_": None, "size": 3}).part is None


def run(monkeypatch, *arguments, body=lambda cfg: None):
    monkeypatch.setattr(sys, "argv", ["recipe", *arguments])
    with pytest.raises(SystemExit) as end:
        recipe(Keys)(body)()
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


# The keys of medcap 2024's documented commands (README.md, README_FINETUNE.md and README_TUTORIAL.md of
# https://github.com/myeongkyunkang/medcap, commit c8910f0).
MEDCAP_2024_SHARED = (
    "vision=biomedclip",
    "vision_checkpoint=./results_medcap/x_biomedclip/checkpoint/meta_model_last.pt",
    "tokenizer.path=./models/llama3/Meta-Llama-3.1-8B-Instruct/original/tokenizer.model",
    "checkpointer.checkpoint_dir=./models/llama3/Meta-Llama-3.1-8B-Instruct",
    "output_dir=./results_medcap/x_biomedclip",
)
MEDCAP_2024_TRAINING = (
    *MEDCAP_2024_SHARED,
    "epochs=5",
    "batch_size=4",
    "gradient_accumulation_steps=1",
    "optimizer.lr=2e-5",
    "dataset._component_=torchtune.datasets.chat_dataset",
    "dataset.source=./datasets/medcap/vqarad_train.json",
    "dataset.conversation_style=sharegpt",
    "dataset.max_seq_len=500",
    "checkpointer.output_dir=./results_medcap/x_biomedclip/checkpoint",
    "metric_logger.log_dir=./results_medcap/x_biomedclip/log",
)
MEDCAP_2024_GENERATION = (
    *MEDCAP_2024_SHARED,
    "test_omnimedvqa=True",
    "test_metrics=True",
    "test_vqarad=True",
    "vqa_type=no_cond_desc",
    "seed=1",
    "max_new_tokens=200",
    "top_k=null",
    "temperature=0",
    "dataset_source=./datasets/",
    "dataset_conversation_style=sharegpt",
    "dataset_max_seq_len=500",
    "test_chunk_idx=0",
    "test_chunk=50",
    "debug=True",
)
MEDCAP_2024_JUDGE = ("bit=4", "ckpt_dir=./models/llama3/judge", "exp=eval_vqa", "csv_path=./x-raw-meta_model_5.csv")


def recipe_of(name):
    """The keys and flags of the recipe that a packaged configuration is for, and the documented overrides."""
    from medcap.evaluation.generate_keys import GenerateConfiguration
    from medcap.evaluation.judge_keys import JudgeConfiguration
    from medcap.training.keys import DistributedConfiguration, TrainingConfiguration

    kind = name.rpartition("/")[2]
    if kind == "generation":
        return GenerateConfiguration, ("test_",), MEDCAP_2024_GENERATION
    if kind == "judge":
        return JudgeConfiguration, (), MEDCAP_2024_JUDGE
    return DistributedConfiguration if kind.endswith("distributed") else TrainingConfiguration, (), MEDCAP_2024_TRAINING


@pytest.mark.parametrize("name", packaged_configs())
def test_every_packaged_configuration_passes_its_recipes_check(name):
    keys, flags, _ = recipe_of(name)
    text = packaged_configs()[name].read_text(encoding="utf-8")
    check(OmegaConf.create(text), keys, flags)
    assert text.startswith("# ")
    for wanted in ("# Download first", r"tune run (--nproc_per_node \d )?medcap/recipes/", "# Memory"):
        assert re.search(wanted, text)


@pytest.mark.slow
@pytest.mark.parametrize("name", packaged_configs())
def test_every_documented_key_of_medcap_2024_is_taken_with_every_packaged_configuration(name):
    keys, flags, words = recipe_of(name)
    for word in words:
        read_arguments(["--config", name, word], keys, flags)
    cfg = read_arguments(["--config", name, *words], keys, flags)
    written = OmegaConf.create(cfg.to_yaml())
    for word in words:
        key, _, text = word.partition("=")
        found = OmegaConf.select(written, key)
        if key == "dataset._component_":
            assert found == "medcap.datasets.chat_dataset"
        else:
            assert found == OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]


@pytest.mark.parametrize(("text", "expected"), [("null", None), ("false", False), ("true", True), ("latest", "latest")])
def test_resume_may_be_null_false_true_and_a_name(text, expected):
    keys, flags, _ = recipe_of("medcap/tiny/distributed")
    cfg = read_arguments(["--config", "medcap/tiny/distributed", f"resume_from_checkpoint={text}"], keys, flags)
    assert cfg.resume_from_checkpoint == expected


TRAIN, DISTRIBUTED, GENERATE = "medcap/tiny/single_device", "medcap/tiny/distributed", "medcap/tiny/generation"


@pytest.mark.parametrize(
    ("config", "word", "words"),
    [
        (TRAIN, "clip_grad_norm=0", "clip_grad_norm=0.0 must be above 0, or null for none"),
        (TRAIN, "clip_grad_norm=nan", "clip_grad_norm=nan must be a finite number"),
        (TRAIN, "max_bad_fraction=2", "max_bad_fraction=2.0 must be at most 1"),
        (TRAIN, "activation_memory_budget=1.5", "activation_memory_budget=1.5 must be at most 1"),
        (TRAIN, "save_every_minutes=0", "save_every_minutes=0.0 must be above 0, or null for none"),
        (TRAIN, "seed=-1", "seed=-1 must be at least 0"),
        (TRAIN, "seed=4294967296", "seed=4294967296 must be at most 4294967295"),
        (TRAIN, "seed=null", "seed=None must be of type int"),
        (TRAIN, "save_meta_model=always", "save_meta_model='always' must be one of True, False, auto"),
        (TRAIN, "save_meta_model=1", "save_meta_model=1 must be of type bool or str"),
        (TRAIN, "optimizer.lr=-1", "optimizer.lr=-1.0 must be at least 0"),
        (TRAIN, "optimizer.lr=.inf", "optimizer.lr=inf must be a finite number"),
        (TRAIN, "optimizer.lr=fast", "optimizer.lr='fast' must be of type float"),
        (TRAIN, "optimizer.betas=[0.9]", "optimizer.betas=[0.9] must be of type tuple"),
        (TRAIN, "optimizer.fused=abc", "optimizer.fused='abc' must be of type bool"),
        (TRAIN, "optimizer={lr: 1}", "optimizer._component_ must be a dotted name, not {'lr': 1}"),
        (TRAIN, "optimizer=torch.optim", "optimizer._component_=torch.optim is not a function or a class"),
        (TRAIN, "optimizer=[a]", "optimizer cannot be ['a']: it needs a _component_"),
        (TRAIN, "lr_scheduler.num_warmup_steps=-5", "lr_scheduler.num_warmup_steps=-5 must be at least 0"),
        (TRAIN, "lr_scheduler.num_warmup_steps=0.1", "lr_scheduler.num_warmup_steps=0.1 must be of type int"),
        (TRAIN, "lr_scheduler.num_cycles=abc", "lr_scheduler.num_cycles='abc' must be of type float"),
        (TRAIN, "dataset.max_seq_len=abc", "dataset.max_seq_len='abc' must be of type int"),
        (TRAIN, "dataset.max_seq_len=0", "dataset.max_seq_len=0 must be at least 1"),
        (TRAIN, "dataset.max_image_pixels=0", "dataset.max_image_pixels=0 must be at least 1"),
        (TRAIN, "dataset.packed=abc", "dataset.packed='abc' must be of type bool"),
        (TRAIN, "dataset.source=5", "dataset.source=5 must be of type str"),
        (TRAIN, "dataset.source=[a.json, b.json]", "dataset.source=['a.json', 'b.json'] must be of type str"),
        (TRAIN, "dataset.source=null", "dataset.source is missing: add dataset.source=..., or dataset.sources"),
        (TRAIN, "dataset.image_roots=folder", "dataset.image_roots='folder' must be of type list[str] | None"),
        (TRAIN, "tokenizer.path=5", "tokenizer.path=5 must be of type str"),
        (TRAIN, "tokenizer.max_seq_len=long", "tokenizer.max_seq_len='long' must be of type int"),
        (TRAIN, "tokenizer.max_seq_len=0", "tokenizer.max_seq_len=0 must be at least 1"),
        (TRAIN, "llm.num_layers=many", "llm.num_layers='many' must be of type int"),
        (TRAIN, "projector.num_image_tokens=4.5", "projector.num_image_tokens=4.5 must be of type int | None"),
        (TRAIN, "metric_logger.log_dir=5", "metric_logger.log_dir=5 must be of type str"),
        (TRAIN, "checkpointer.checkpoint_files=[5]", "checkpointer.checkpoint_files=[5] must be a list of texts"),
        (TRAIN, "trainable={vision: {lr: abc}}", "trainable.vision.lr='abc' must be of type float"),
        (TRAIN, "checkpointer=[a]", "checkpointer holds further keys (checkpoint_dir"),
        (TRAIN, "vision=[tiny]", "vision=['tiny'] must be of type str or dict"),
        (DISTRIBUTED, "timeout_minutes=0", "timeout_minutes=0.0 must be at least 0.1"),
        (DISTRIBUTED, "timeout_minutes=1e300", "timeout_minutes=1e+300 must be at most 525600"),
        (GENERATE, "top_p=0", "top_p=0.0 must be above 0"),
        (GENERATE, "top_p=1.5", "top_p=1.5 must be at most 1"),
        (GENERATE, "seed=-1", "seed=-1 must be at least 0"),
        (GENERATE, "temperature=nan", "temperature=nan must be a finite number"),
        (GENERATE, "image_roots=[5]", "image_roots=[5] must be a list of texts"),
        (GENERATE, "image=[a.png, 5]", "image=['a.png', 5] must be a list of texts"),
        ("medcap/judge", "timeout=0", "timeout=0.0 must be at least 0.001"),
        ("medcap/judge", "retries=-1", "retries=-1 must be at least 0"),
    ],
)
def test_impossible_values_of_real_configurations_name_their_key(config, word, words):
    keys, flags, _ = recipe_of(config)
    with pytest.raises(UserError) as error:
        read_arguments(["--config", config, word], keys, flags)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_home_folder_stands_for_a_tilde_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    keys, flags, _ = recipe_of(TRAIN)
    words = (
        *("output_dir=~/run", "vision=~/tower", "vision_checkpoint=~/a.pt", "validation_source=~/b.json"),
        *("checkpointer.checkpoint_dir=~/llm", "checkpointer.output_dir=~/saved", "tokenizer.path=~/t.model"),
        *("dataset.source=~/c.json", "dataset.image_roots=[~/images, ~/more]", "metric_logger.log_dir=~/log"),
        "resume_from_checkpoint=~/run/checkpoint/step_000001",
    )
    found = read_arguments(["--config", TRAIN, *words], keys, flags).to_yaml()
    assert "~" not in found
    assert found.count("/home/anna/") == 12
    keys, flags, _ = recipe_of(GENERATE)
    words = (
        "image=[~/a.png]",
        "dataset_source=~/b",
        "image_roots=[~/c]",
        "results_csv=~/d.csv",
        "prompt='~/e is what?'",
    )
    cfg = read_arguments(["--config", GENERATE, *words], keys, flags)
    assert (cfg.image, cfg.dataset_source) == (["/home/anna/a.png"], "/home/anna/b")
    assert (cfg.image_roots, cfg.results_csv) == (["/home/anna/c"], "/home/anna/d.csv")
    assert cfg.prompt == "~/e is what?"
    keys, flags, _ = recipe_of("medcap/judge")
    words = ("csv_path=~/a.csv", "ckpt_dir=~/llm", "output_dir=~/out")
    cfg = read_arguments(["--config", "medcap/judge", *words], keys, flags)
    assert (cfg.csv_path, cfg.ckpt_dir, cfg.output_dir) == ("/home/anna/a.csv", "/home/anna/llm", "/home/anna/out")


def test_a_component_that_refuses_its_arguments_is_reported_with_its_key():
    with pytest.raises(UserError, match=r"^sampler: 'int' object is not iterable \(from builtins\.dict\)"):
        build({"_component_": "builtins.dict"}, 5, key="sampler")
    with pytest.raises(UserError, match=r"metric_logger\._component_=torch\.nothing cannot be found"):
        build({"_component_": "torch.nothing"}, key="metric_logger")


def test_an_unknown_argument_tells_what_the_component_takes_and_how_to_drop_it():
    def tokenizer(path: str, today: str = "") -> None: ...

    with pytest.raises(UserError) as error:
        check_arguments(tokenizer, {"path": "a", "merges_file": "b"}, "tokenizer")
    assert str(error.value) == (
        "unknown key tokenizer.merges_file: tokenizer takes path, today;"
        " ~tokenizer.merges_file takes it out of a configuration"
    )
