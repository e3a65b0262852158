import json
from unittest import mock

import nibabel
import numpy as np
import pytest

from helpers.chat_questions import chat_row, write_chat_questions
from helpers.chat_server import chat_server
from helpers.workspace import Workspace, tune


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("generate"))
    rows = [
        {"question_id": index, "image": f"images/{index % 4}.png", "question": "Is there a circle?", "reference": "Yes"}
        for index in range(6)
    ]
    workspace.write_data("vqa.json", [row | {"answer_type": "CLOSED", "options": ["Yes", "No"]} for row in rows])
    workspace.train("epochs=3")
    return workspace


def generate(workspace, *overrides):
    workspace.generate(f"vision_checkpoint={workspace.folder}/run", f"output_dir={workspace.folder}/out", *overrides)


def test_one_picture_goes_to_standard_output(trained, capsys):
    image = f"image={trained.folder}/images/0.png"
    generate(trained, image, "prompt='Is there a circle?'")
    first = capsys.readouterr().out
    generate(trained, image, "prompt='Is there a circle?'")
    assert capsys.readouterr().out == first
    assert len(first.splitlines()) == 1
    generate(trained, f"image=[{trained.folder}/images/0.png,{trained.folder}/images/1.png]")
    assert [line.count("\t") for line in capsys.readouterr().out.splitlines()] == [1, 1]


def test_a_prompt_with_a_region_that_nothing_gives_is_refused(trained, capsys):
    with pytest.raises(SystemExit) as end:
        generate(trained, f"image={trained.folder}/images/0.png", "prompt='What is <region></region>?'")
    assert end.value.code == 2
    assert "prompt holds <region></region>, and no key gives it a region: ask by /region" in capsys.readouterr().err


def test_the_language_model_can_be_left_to_the_run(trained, capsys):
    image = f"image={trained.folder}/images/0.png"
    generate(trained, image)
    named = capsys.readouterr().out
    generate(trained, image, "llm=null", "tokenizer=null", "checkpointer=null")
    assert capsys.readouterr().out == named


def test_a_task_writes_predictions_scores_and_a_page_and_continues(trained, capsys):
    arguments = ("test_vqa=True", "controls=True", f"dataset_source={trained.folder}/vqa.json")
    generate(trained, *arguments)
    assert "images shuffled" in capsys.readouterr().out
    folder = trained.folder / "out" / "vqa"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["n"] == 6
    assert {"shuffled_image", "no_image"} == metrics["controls"].keys()
    assert "<html" in (folder / "report.html").read_text()
    # A killed run: half of the rows are there, the last one torn.
    predictions = folder / "predictions.jsonl"
    lines = predictions.read_text().splitlines(keepends=True)
    predictions.write_text("".join(lines[:3]) + lines[3][:10])
    generate(trained, *arguments)
    assert json.loads((folder / "metrics.json").read_text())["scores"] == metrics["scores"]
    assert sorted(predictions.read_text().splitlines()) == sorted(line.strip() for line in lines)


def test_other_settings_do_not_mix_with_old_answers(trained, capsys):
    arguments = ("test_vqa=True", f"dataset_source={trained.folder}/vqa.json", f"output_dir={trained.folder}/mixed")
    generate(trained, *arguments)
    with pytest.raises(SystemExit) as end:
        generate(trained, *arguments, "max_new_tokens=3")
    assert end.value.code == 2
    assert "overwrite=true" in capsys.readouterr().err
    generate(trained, *arguments, "max_new_tokens=3", "overwrite=true")


@pytest.mark.parametrize("llm_weights", ["fp8", "int8", "nf4"])
def test_a_low_precision_language_model_answers(trained, capsys, llm_weights):
    arguments = ("test_vqa=True", f"dataset_source={trained.folder}/vqa.json", f"llm_weights={llm_weights}")
    output = trained.folder / f"out_{llm_weights}"
    generate(trained, *arguments, f"output_dir={output}")
    metrics = json.loads((output / "vqa" / "metrics.json").read_text())
    assert (metrics["n"], metrics["failures"]) == (6, 0)
    assert metrics["settings"]["llm_weights"] == llm_weights
    with pytest.raises(SystemExit):
        generate(trained, *arguments[:2], f"output_dir={output}")
    assert f'llm_weights: "{llm_weights}" there, "bf16" now' in capsys.readouterr().err


OF_THE_RUN = ("image={folder}/images/0.png", "llm=null", "tokenizer=null", "checkpointer=null")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "nothing to do"),
        ((*OF_THE_RUN, "device=cpu", "cuda_graphs=true"), "cuda_graphs needs a CUDA device, and the model is on cpu"),
        (("test_vqa=True",), "dataset_source is missing"),
        (("test_vqaa=True",), "did you mean test_vqa?"),
        (("test_vqa=maybe",), "must be true or false"),
        (("image=nowhere.png",), "image nowhere.png does not exist"),
        (("test_vqa=True", "dataset_source=nowhere.json"), "nowhere.json does not exist"),
        (("image={folder}/images/0.png", "top_p=2"), "top_p=2"),
        (("image={folder}/images/0.png", "vision_checkpoint=nowhere"), "nowhere"),
        (("image={folder}/images/0.png", "vision_checkpoint=null"), "vision is missing"),
        (("image={folder}/images/0.png", "llm=null"), "llm is missing beside tokenizer"),
        (
            (
                "image={folder}/images/0.png",
                "llm=null",
                "tokenizer=null",
                "checkpointer=null",
                "vision_checkpoint=null",
            ),
            "RUN",
        ),
        (
            (*OF_THE_RUN, "vision_checkpoint=no_run"),
            "and vision_checkpoint does not tell it: no_run: there is no such run",
        ),
        (("image={folder}/images/0.png", "llm.embed_dim=64"), "is not the model of"),
        (("image={folder}/images/0.png", "temprature=1"), "unknown key temprature: did you mean temperature?"),
    ],
)
def test_a_mistake_is_one_line_before_weights_are_read(trained, capsys, monkeypatch, overrides, message):
    from medcap.checkpoints.frozen_llm import LLMPlan

    monkeypatch.setattr(LLMPlan, "load", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(SystemExit) as end:
        generate(trained, *(override.format(folder=trained.folder) for override in overrides))
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2
    assert message in line


def test_a_machine_without_a_compiler_is_named_before_weights_are_read(trained, capsys, monkeypatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    from medcap.checkpoints.frozen_llm import LLMPlan

    monkeypatch.setattr(LLMPlan, "load", lambda *_: pytest.fail("weights were read"))
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", mock.Mock(side_effect=InvalidCxxCompiler))
    with pytest.raises(SystemExit) as end:
        generate(trained, *(one.format(folder=trained.folder) for one in OF_THE_RUN), "device=cpu", "compile=true")
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2
    assert "compile=true needs a C++ compiler on a CPU, and none was found: install g++" in line


def test_a_damaged_test_image_counts_as_a_failure(trained):
    (trained.folder / "images" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    rows = [
        {"question_id": index, "image": f"images/{name}.png", "question": "Is there a circle?", "reference": "Yes"}
        for index, name in enumerate(("0", "cut", "none"))
    ]
    path = trained.write_data("broken.json", rows)
    generate(trained, "test_vqa=True", f"dataset_source={path}", f"output_dir={trained.folder}/broken")
    metrics = json.loads((trained.folder / "broken" / "vqa" / "metrics.json").read_text())
    assert (metrics["n"], metrics["failures"]) == (3, 2)
    lines = (trained.folder / "broken" / "vqa" / "predictions.jsonl").read_text().splitlines()
    errors = {row["question_id"]: row["error"] for row in map(json.loads, lines)}
    assert errors["0"] is None
    assert errors["1"]
    assert "does not exist" in errors["2"]


@pytest.mark.slow
def test_a_volume_is_looked_at_as_the_keys_say(trained, capsys):
    path = trained.folder / "images" / "ct.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4)), path)
    row = {"question_id": 1, "image": "images/ct.nii.gz", "question": "Is there a circle?", "reference": "Yes"}
    trained.write_data("volumes.json", [row, row | {"question_id": 2, "window": [40, 400]}])
    view = ("view.frames='2 even'", "view.axis=coronal", "view.window=[[500,1000],[500,500],[500,100]]")
    generate(trained, f"image={path}", "prompt='Is there a circle?'", *view)
    assert len(capsys.readouterr().out.splitlines()) == 1
    output = trained.folder / "out_volumes"
    generate(trained, "test_vqa=True", f"dataset_source={trained.folder}/volumes.json", f"output_dir={output}", *view)
    metrics = json.loads((output / "vqa" / "metrics.json").read_text())
    assert (metrics["n"], metrics["failures"]) == (2, 0)
    words = "frames=2even axis=coronal"
    assert metrics["settings"]["view"] == f"window=500,1000/500,500/500,100 {words}"
    lines = map(json.loads, (output / "vqa" / "predictions.jsonl").read_text().splitlines())
    assert {line["image"] for line in lines} == {
        f"{path.resolve()} window=500,1000/500,500/500,100 {words}",
        f"{path.resolve()} window=40,400 {words}",
    }
    with pytest.raises(SystemExit):
        generate(trained, f"image={path}", "view.frames=[1,10]")
    assert "ct.nii.gz has no frame 10: it has 10, numbered from 0" in capsys.readouterr().err


def test_conversations_are_asked_and_then_rated_by_an_endpoint(trained, tmp_path, monkeypatch, capsys):
    pytest.importorskip("openai")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write_chat_questions(tmp_path, [chat_row(number) for number in range(6)])
    generate(trained, "test_chat=True", f"dataset_source={tmp_path}", "max_new_tokens=8", f"output_dir={tmp_path}/out")
    folder = tmp_path / "out" / "chat"
    shown = capsys.readouterr().out
    assert "the published score is a judge's" in shown
    assert json.loads((folder / "predictions.jsonl").read_text().splitlines()[0])["context"].startswith(
        "Figure Caption:"
    )
    with chat_server(lambda prompt, number: "10 4\nThe second is short.") as server:
        endpoint = ("judge=endpoint", f"base_url={server.base_url}", "model=judge", "device=cpu")
        arguments = ("exp=eval_chat", f"csv_path={folder}/predictions.jsonl")
        tune("judge", "medcap/judge", *arguments, *endpoint)
    assert all(f"Caption {number}." in "".join(server.prompts) for number in range(6))
    metrics = json.loads((folder / "ratings_metrics.json").read_text())
    assert (metrics["n"], metrics["scores"]["mean_of_ratios"]) == (6, pytest.approx(0.4 * metrics["rated"] / 6))
    assert [line["modality"] for line in metrics["tables"]["modality"]] == ["CT", "CXR", "Gross", "Histology", "MRI"]
    assert "relative_score_published.mean_of_ratios" in (tmp_path / "out" / "results.csv").read_text()
