import pytest
import yaml

from medcap.cli import main
from medcap.errors import UserError
from medcap.pipeline.definition import read_pipeline

TRAIN, GENERATE = "medcap/tiny/single_device", "medcap/tiny/generation"


def write(folder, stages, **keys):
    path = folder / "curriculum.yaml"
    path.write_text(yaml.safe_dump({"output_dir": f"{folder}/out", "stages": stages, **keys}, sort_keys=False))
    return path


def two_stages(folder, **second):
    first = {"config": TRAIN, "overrides": {"trainable": ["projector"]}}
    return write(folder, {"align": first, "instruct": {"config": TRAIN, **second}})


def test_each_stage_is_a_command_that_may_name_the_folder_of_an_earlier_one(tmp_path):
    overrides = {"init_from": "${stages.align.output_dir}", "trainable": {"projector": {"lr": 0.002}, "llm_lora": {}}}
    recipe = "medcap/recipes/full_finetune_distributed"
    path = two_stages(tmp_path, recipe=recipe, processes=2, overrides={**overrides, "llm_lora": {"rank": 4}})
    first, second = read_pipeline(path, ["stages.align.overrides.epochs=2"]).stages
    assert first.words == [
        *("tune", "run", "medcap/recipes/full_finetune_single_device", "--config", TRAIN),
        *(f"output_dir={tmp_path}/out/align", 'trainable=["projector"]', "epochs=2"),
    ]
    assert second.words == [
        *("tune", "run", "--nproc_per_node", "2", recipe, "--config", TRAIN),
        *(f"output_dir={tmp_path}/out/instruct", f"init_from={tmp_path}/out/align", "trainable.projector.lr=0.002"),
        *("trainable.llm_lora={}", "llm_lora.rank=4"),
    ]
    assert first.makes == tmp_path / "out/align/summary.json"


def test_the_order_of_overrides_makes_no_other_stage(tmp_path):
    orders = [{"epochs": 2, "seed": 3}, {"seed": 3, "epochs": 2}, {"seed": 3, "epochs": 1}]
    keys = [read_pipeline(two_stages(tmp_path, overrides=given)).stages[1].key for given in orders]
    assert keys[0] == keys[1] != keys[2]


def test_a_stage_can_be_any_command_of_medcap(tmp_path, capsys):
    path = write(tmp_path, {"data": {"command": ["prepare", "phantom", "--out", "${output_dir}/data"]}})
    assert main(["run", str(path), "--check"]) == 0
    assert capsys.readouterr().out == f"[data] medcap prepare phantom --out {tmp_path}/out/data\n"


def test_a_test_writes_a_folder_for_each_task(tmp_path):
    test = {"recipe": "medcap/recipes/generate", "config": GENERATE}
    vqa = {**test, "output_dir": "${output_dir}", "overrides": {"test_vqa": True, "dataset_source": "a.json"}}
    caption = {**test, "output_dir": "${output_dir}", "overrides": {"test_caption": True, "dataset_source": "b.json"}}
    stages = read_pipeline(write(tmp_path, {"vqa": vqa, "caption": caption})).stages
    assert [stage.makes for stage in stages] == [
        tmp_path / "out/vqa/metrics.json",
        tmp_path / "out/caption/metrics.json",
    ]
    with pytest.raises(UserError, match=r"stages vqa and again both write to .*/out/vqa: give each an output_dir"):
        read_pipeline(write(tmp_path, {"vqa": vqa, "again": vqa}))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"output_dir": "${stages.align.output_dir}"}, r"stages align and instruct both write to .*/out/align"),
        ({"overrides": {"epoch": 2}}, r"stages\.instruct: unknown key epoch: did you mean epochs"),
        ({"overrides": {"epochs": 0}}, r"stages\.instruct: epochs=0"),
        ({"overrides": {"output_dir": "x"}}, r"stages\.instruct\.overrides\.output_dir: write it as stages\.instruct"),
        ({"config": None}, r"stages\.instruct\.config is missing"),
        (
            {"config": "medcap/tiny/singel_device"},
            r"stages\.instruct: .* did you mean medcap/tiny/single_device",
        ),
        ({"recipe": "full_finetune_single_device"}, r"there is no recipe .* did you mean medcap/recipes/full_finetune"),
        ({"proceses": 2}, r"unknown key stages\.instruct\.proceses: did you mean stages\.instruct\.processes"),
        ({"overrides": {"init_from": "${stages.algin.output_dir}"}}, r"refers to something that is not there"),
        ({"processes": 2}, r"stages\.instruct\.processes=2: .* runs in one process; give a recipe for several"),
        ({"command": ["ls"]}, r"stages\.instruct: command cannot be combined with config"),
    ],
)
def test_a_mistake_is_found_before_the_first_stage_runs(tmp_path, stage, message):
    with pytest.raises(UserError, match=message):
        read_pipeline(two_stages(tmp_path, **stage))
    assert not (tmp_path / "out").exists()


def test_a_stage_that_needs_a_later_one_is_refused(tmp_path):
    early = {"config": TRAIN, "overrides": {"init_from": "${stages.late.output_dir}"}}
    with pytest.raises(UserError, match=r"stages\.early: init_from=.*/out/late is written by the later stage late"):
        read_pipeline(write(tmp_path, {"early": early, "late": {"config": TRAIN}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output_dir: out\nstages:\n  a: {config: x}\n  a: {config: y}\n", r"found duplicate key a.* in line 4"),
        ("output_dir: out\n", "stages is missing"),
        ("output_dir: out\nstages: [a]\n", "stages is missing"),
        (
            "output_dir: out\nstages: {a.b: {config: x}}\n",
            r"stages\.a\.b: use only letters, digits, _ and - in a stage's name",
        ),
        ("stages: {a: {config: medcap/tiny/single_device}}\n", "refers to something that is not there"),
        ("- a\n", "holds no pipeline"),
        ("a: [\n", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_pipeline_is_refused(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_pipeline(path)


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"nowhere\.yaml: neither a file nor a packaged pipeline"):
        read_pipeline("nowhere.yaml")
