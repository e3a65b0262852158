import json
from xml.etree import ElementTree

import pytest

from helpers.workspace import TINY_VISION, Workspace, log, tune
from medcap.cli import main

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("stats"))


def stats(*arguments):
    return main(["stats", *map(str, arguments), "--processes", "1"])


def overrides(workspace, *more):
    return [
        *workspace.model_overrides(),
        f"vision={TINY_VISION}",
        "projector.num_image_tokens=4",
        f"dataset.source={workspace.data}",
        "dataset.max_seq_len=96",
        "batch_size=2",
        *more,
    ]


@pytest.mark.slow
def test_the_figures_are_those_of_the_run(workspace, tmp_path, capsys):
    for packed in ("true", "false"):
        arguments = overrides(workspace, f"dataset.packed={packed}", f"output_dir={tmp_path / packed}")
        tune("full_finetune_single_device", "medcap/tiny/single_device", *arguments, "num_workers=0", "epochs=1")
        out, metrics = tmp_path / f"{packed}.json", tmp_path / packed / "log" / "metrics.jsonl"
        plot = tmp_path / "plot.svg"
        stats("--config", "medcap/tiny/single_device", *arguments, "--json", out, "--metrics", metrics, "--plot", plot)
        found = json.loads(out.read_text())
        plan = next(plan for plan in found["packing"] if plan["packed"] == (packed == "true"))
        summary = json.loads((tmp_path / packed / "summary.json").read_text())
        assert plan["steps"] == summary["steps"] == len(log(tmp_path / packed))
        assert plan["samples"] == summary["samples"] == 13
        speeds = sorted(row["tokens_per_second"] for row in log(tmp_path / packed))
        middle = (speeds[(len(speeds) - 1) // 2] + speeds[len(speeds) // 2]) / 2
        assert found["epoch_seconds"] == pytest.approx(plan["tokens"] / middle)
        titles = [node.text for node in ElementTree.parse(plot).iter() if node.get("class") == "title"]
        assert titles == ["Tokens a row", "Answer", "Question and template", "Images, shorter side"]
    printed = capsys.readouterr().out
    assert "images: 4 files, named 12 times (1 row with 0, 12 rows with 1)" in printed
    assert "memory of a step on one device in float32, computed: " in printed


@pytest.mark.parametrize("packed", ["true", "false"])
def test_the_figures_of_several_sources_are_those_of_the_run(workspace, tmp_path, capsys, packed):
    rows = workspace.records()
    parts = [{"source": str(workspace.write_data("many.json", rows[:9])), "weight": 1}]
    parts.append({"source": str(workspace.write_data("few.json", rows[9:])), "weight": 2, "name": "captions"})
    arguments = overrides(workspace, "dataset.source=null", f"dataset.sources={json.dumps(parts)}")
    arguments += [f"dataset.packed={packed}", "dataset.epoch_samples=18", f"output_dir={tmp_path / 'run'}"]
    tune("full_finetune_single_device", "medcap/tiny/single_device", *arguments, "num_workers=0", "epochs=1")
    ran = capsys.readouterr().err
    stats("--config", "medcap/tiny/single_device", *arguments, "--json", tmp_path / "out.json")
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    assert [(name, part["rows"]) for name, part in found["sources"].items()] == [("many", 9), ("captions", 4)]
    plan = next(plan for plan in found["packing"] if plan["packed"] == (packed == "true"))
    assert (plan["samples"], plan["steps"]) == (18, len(log(tmp_path / "run")))
    line = "  captions            4 rows           12 samples an epoch (66.7%), 3.00 passes"
    assert line in printed and line in ran
    assert f"{workspace.folder}/few.json: 4 rows" in printed
    with pytest.raises(SystemExit, match="2"):
        stats("--config", "medcap/tiny/single_device", *arguments, "--plot", tmp_path / "plot.svg")
    assert "--plot is for one file" in capsys.readouterr().err


def test_tokens_add_up(workspace, tmp_path):
    tokenizer = workspace.folder / "llm"
    arguments = (workspace.data, "--tokenizer", tokenizer, "--num-image-tokens", 4, "--max-seq-len", 96)
    stats(*arguments, "--json", tmp_path / "out.json", "--tokens-per-second", 100)
    found = json.loads((tmp_path / "out.json").read_text())
    tokens, packed = found["tokens"], found["packing"][0]
    assert tokens["image"]["total"] == 12 * 4
    assert tokens["total"]["total"] == sum(tokens[part]["total"] for part in ("image", "question", "answer"))
    assert packed["images"] == 4
    assert packed["documents"] == 5
    assert packed["fill"] == pytest.approx(packed["tokens"] / (96 * packed["units"]))
    assert found["packing"][1]["tokens"] == packed["tokens"] + packed["saved_by_sharing"]
    assert found["epoch_seconds"] == packed["tokens"] / 100
    assert found["memory"] is None


def test_without_a_tokenizer_there_are_images(workspace, capsys):
    stats(workspace.data)
    printed = capsys.readouterr().out
    assert "  formats       PNG 4\n  shorter side  mean 20.0, median 20" in printed
    assert printed.endswith("tokens, packing and steps need --tokenizer, or --config\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch-size", "0"), "--batch-size 0 must be at least 1"),
        (("--tokens-per-second", "-1"), "--tokens-per-second -1 must be above 0"),
        (("--plot", "x.png"), "--plot x.png must end in .svg"),
        (("--metrics", "none.jsonl"), "--metrics none.jsonl cannot be read"),
        (("--metrics", "{folder}/empty.jsonl"), "holds no tokens_per_second"),
        (("--plot", "{folder}/train.json/x.svg"), "cannot be written"),
    ],
)
def test_misuse_is_one_line_and_status_2(workspace, capsys, arguments, message):
    (workspace.folder / "empty.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(SystemExit) as end:
        stats(workspace.data, *(argument.format(folder=workspace.folder) for argument in arguments))
    assert end.value.code == 2
    assert message in capsys.readouterr().err
