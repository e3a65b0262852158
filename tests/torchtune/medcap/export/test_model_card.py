import json
import re
import shutil

import pytest
import yaml

from helpers.vision_checkpoints import write_hugging_face_folder
from helpers.workspace import QUESTIONS, Workspace
from medcap.cli import main
from medcap.errors import UserError
from medcap.export.formats import ExportOptions, export_run
from medcap.export.model_card import _between

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A run that was trained and scored."""
    workspace = Workspace(tmp_path_factory.mktemp("card"))
    write_hugging_face_folder(workspace.folder / "siglip-tiny", "siglip")
    run = workspace.train(f"vision={workspace.folder}/siglip-tiny", "projector.num_image_tokens=null", "epochs=2")
    rows = [
        {"question_id": f"{index}", "image": f"images/{index}.png", "question": question, "reference": answer}
        for index, (question, answer) in enumerate(QUESTIONS)
    ]
    data = workspace.write_data("test_rows.json", rows)
    task = ("test_vqa=True", "controls=True", f"dataset_source={data}", f"output_dir={run}")
    workspace.generate(f"vision_checkpoint={run}", *task)
    return workspace


@pytest.fixture(scope="module")
def card(workspace, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "mine"
    export_run(workspace.folder / "run", out, options=ExportOptions(base_model="meta-llama/Llama-3.1-8B-Instruct"))
    return (out / "README.md").read_text(encoding="utf-8")


def test_the_front_matter_is_what_the_hub_reads(card):
    assert yaml.safe_load(card.split("---")[1]) == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "license": "llama3.1",
        "base_model": ["meta-llama/Llama-3.1-8B-Instruct"],
        "tags": ["medical", "llava", "medcap"],
    }


def test_it_says_what_was_trained_on_what(card, workspace):
    summary = json.loads((workspace.folder / "run/summary.json").read_text())
    assert "| vision tower | siglip-tiny, 32 x 32 pixels | yes |" in card
    assert "| projector | mlp, 16 tokens an image | yes |" in card
    fingerprint = summary["llm_sha256_before"][:16]
    assert f"| language model | meta-llama/Llama-3.1-8B-Instruct, fingerprint `{fingerprint}` | no |" in card
    assert "one and the same fingerprint before and after" in " ".join(card.split())
    assert "- source: `train.json`" in card and "- rows: 13; rows that could not be used: 0" in card
    assert f"| steps | {summary['steps']} |" in card and "| learning rate | 0.0015 |" in card


def test_scores_stand_with_denominator_interval_and_controls(card, workspace):
    metrics = json.loads((workspace.folder / "run/vqa/metrics.json").read_text())
    assert "| task | protocol | score | value | 95 % interval | rows | failures | no image | images shuffled |" in card
    name, block = next(iter(metrics["protocols"].items()))
    interval = block["intervals"][block["headline"]]
    row = (
        f"| vqa | {name} | {block['headline']} | {block['scores'][block['headline']]:.4f}"
        f" | {interval['low']:.4f} to {interval['high']:.4f} | 3 | {block['failures']} |"
    )
    assert row in card
    assert f"- vqa: 3 rows of `test_rows.json`, fingerprint `{metrics['dataset']['sha256'][:16]}`" in card


@pytest.mark.parametrize(
    ("value", "ends", "score", "expected"),
    [
        (1.0, (1.0, 1.0), "accuracy", "0.6097 to 1.0000"),
        (0.0, (0.0, 0.0), "open.recall", "0.0000 to 0.3903"),
        (0.5, (0.2, 0.8), "accuracy", "0.2000 to 0.8000"),
        (0.0, (0.0, 0.0), "CIDEr", "0.0000 to 0.0000"),
        (None, (0.0, 0.0), "accuracy", "0.0000 to 0.0000"),
    ],
)
def test_results_of_older_versions_get_a_width_at_the_ends(value, ends, score, expected):
    assert _between({"low": ends[0], "high": ends[1], "level": 0.95, "draws": 10_000}, value, 6, score) == expected
    assert _between(None, value, 6, score) == "–"


def test_it_names_the_transformers_that_reads_the_right_features(card):
    assert "With transformers 5.0 or later: earlier releases may read other features" in card


def test_no_path_of_the_machine_is_reported(card, workspace):
    assert str(workspace.folder) not in card
    assert re.search(r"(?<![\w.])/(tmp|home|root|work|mnt|data)/", card) is None
    assert "Not for clinical use" in card and "Built with Llama." in card


def test_scores_of_another_step_are_left_out(workspace, tmp_path):
    steps = sorted((workspace.folder / "run/checkpoint").glob("step_*"))
    assert len(steps) > 1
    export_run(steps[0], tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert "None were measured for this checkpoint." in text
    assert "Left out, because they were made with another checkpoint: vqa." in text


@pytest.mark.slow
def test_the_example_of_the_card_runs(card, workspace, tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    export_run(workspace.folder / "run", tmp_path / "out")
    shutil.copyfile(workspace.folder / "images/0.png", tmp_path / "out/chest.png")
    monkeypatch.chdir(tmp_path / "out")
    # accelerate would place so small a model on any GPU; what is tried is the example's own lines.
    names: dict = {}
    exec(compile(code.replace(', device_map="auto"', ""), "card", "exec"), names)
    assert names["inputs"]["input_ids"].shape[0] == 1 and len(names["answer"]) >= 1
    assert capsys.readouterr().out == names["processor"].decode(names["answer"], skip_special_tokens=True) + "\n"


def test_a_base_model_that_is_not_a_name_is_refused(workspace, tmp_path, capsys):
    with pytest.raises(UserError, match="--base-model /models/llama is not a name on the hub"):
        export_run(workspace.folder / "run", tmp_path / "out", options=ExportOptions(base_model="/models/llama"))
    with pytest.raises(SystemExit):
        main(["export", str(workspace.folder / "run"), "--out", str(tmp_path / "out"), "--base-model", "llama"])
    assert "--base-model llama is not a name on the hub" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_card_of_a_run_that_goes_on_from_another_names_the_data_of_both(workspace, tmp_path):
    captions = workspace.write_data("captions.json", workspace.records()[:4])
    model = (f"vision={workspace.folder}/siglip-tiny", "projector.num_image_tokens=null")
    earlier = workspace.train(*model, "trainable=[projector]", f"dataset.source={captions}", output="earlier")
    view = "dataset.view.fit=pad"
    run = workspace.train(*model, "trainable=[vision]", f"init_from={earlier}", view, output="later")
    export_run(run, tmp_path / "mine")
    text = (tmp_path / "mine/README.md").read_text(encoding="utf-8")
    assert "- source: `train.json`" in text and "- before that: projector on captions.json, 1 steps" in text
    assert "| projector | mlp, 16 tokens an image | yes |" in text  # by the earlier run
    assert "- images were looked at with `fit: pad` where a row did not say otherwise" in text
    assert str(workspace.folder) not in text
