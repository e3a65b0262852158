"""The benchmarks in their official layouts, through ``tune run``."""

import csv
import json
import signal

import pytest

from helpers.downloads import Downloads
from helpers.exam_sets import ROWS, write_exam_sets
from helpers.waiting import wait_for
from helpers.workspace import Workspace
from medcap.datasets.phantoms.benchmarks import write_phantom_benchmarks

pytestmark = pytest.mark.processes

TASKS = ("omnimedvqa", "vqarad", "slake", "pathvqa")
EVERY_WAY = (
    "protocols=[option_text,option_text_normalized,option_letter,omnimedvqa_prefix,omnimedvqa_qa,medcap_option,"
    "medcap_letter,exact,medevalkit@564d279,vlmevalkit]"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("benchmarks"))
    write_phantom_benchmarks(workspace.folder / "datasets", 8, seed=5, image_size=32)
    workspace.train("epochs=1")
    return workspace


def arguments(workspace, output, *overrides):
    return [
        f"vision_checkpoint={workspace.folder}/run",
        f"output_dir={workspace.folder / output}",
        f"dataset_source={workspace.folder}/datasets",
        "dataset_max_seq_len=2048",
        "llm.max_seq_len=2048",
        "max_new_tokens=4",
        *overrides,
    ]


def metrics(workspace, output, task):
    return json.loads((workspace.folder / output / task / "metrics.json").read_text(encoding="utf-8"))


def test_several_benchmarks_in_one_run_with_both_controls(trained, capsys):
    trained.generate(*arguments(trained, "all", *(f"test_{task}=True" for task in TASKS), "controls=true"))
    shown = capsys.readouterr().out
    for task, rows in zip(TASKS, (48, 40, 48, 32), strict=True):
        result = metrics(trained, "all", task)
        assert result["n"] == rows
        lines = (trained.folder / "all" / task).glob("predictions*.jsonl")
        assert {json.loads(line)["error"] for path in lines for line in path.read_text().splitlines()} == {None}
        assert result["controls"].keys() == {"shuffled_image", "no_image"}
        assert result["image_reliance"].keys() >= {"visual_reliance_score", "image_sensitivity"}
        assert any("the published test set has" in notice for notice in result["notices"])
        assert len(result["dataset"]["sha256"]) == len(result["prompt_sha256"]) == 64
        assert f"{task}: {rows} rows" in shown
        assert "<html" in (trained.folder / "all" / task / "report.html").read_text(encoding="utf-8")
    assert metrics(trained, "all", "slake")["tables"].keys() >= {"organ", "modality", "question_type", "answer_type"}
    assert list((trained.folder / "all" / "pathvqa" / "images").iterdir())
    with (trained.folder / "all" / "results.csv").open() as file:
        assert [row["task"] for row in csv.DictReader(file)] == list(TASKS)


def test_examinations_frames_and_reports_in_their_official_layouts(trained, tmp_path, capsys):
    write_exam_sets(Downloads(tmp_path))
    captions = ("iu_xray", "rocov2")
    for tasks, more in (
        ([task for task in ROWS if task not in captions], ["controls=true"]),
        (captions, ["protocols=[imageclef_rouge]"]),
    ):
        words = [*(f"test_{task}=True" for task in tasks), f"dataset_source={tmp_path}", *more]
        trained.generate(*arguments(trained, "exams", *words))
    shown = capsys.readouterr().out
    for task, rows in ROWS.items():
        result = metrics(trained, "exams", task)
        missing = task in ("medxpertqa", "gmai_mmbench", *captions)
        assert (result["n"], result["failures"]) == (rows, int(missing)), task
        assert f"{task}: {rows} rows" in shown
    letters = metrics(trained, "exams", "medframeqa")["protocols"]["option_letter"]
    assert letters["scores"]["accuracy"] in (0, 1)  # the same question twice
    open_questions = metrics(trained, "exams", "mmmu_med")["protocols"]["exact"]
    assert "there are no questions of open" in open_questions["notices"]
    levels = metrics(trained, "exams", "radrestruct")["protocols"]["report_options"]["scores"]
    assert {"accuracy", "f1", "level_1", "level_2", "level_3"} <= levels.keys()


def test_every_way_of_asking_about_options_in_one_run(trained):
    trained.generate(*arguments(trained, "ways", "test_omnimedvqa=True", "vqa_type=no_cond_desc", EVERY_WAY))
    result = metrics(trained, "ways", "omnimedvqa")
    asked = {name: block["asked"] for name, block in result["protocols"].items()}
    assert asked == {
        "option_text": "option_text",
        "option_text_normalized": "option_text",
        "option_letter": "option_letter",
        "omnimedvqa_prefix": "omnimedvqa_prefix",
        "omnimedvqa_qa": "listed_options",
        "medcap_option": "mapped_option",
        "medcap_letter": "mapped_option",
        "exact": "no_cond_desc",
        "medevalkit@564d279": "lettered_options",
        "vlmevalkit": "lettered_options",
    }
    assert len({block["prompt_sha256"] for block in result["protocols"].values()}) == 7
    folder = trained.folder / "ways" / "omnimedvqa"
    assert len((folder / "descriptions.jsonl").read_text(encoding="utf-8").splitlines()) == 8
    assert len((folder / "predictions_mapped_option.jsonl").read_text(encoding="utf-8").splitlines()) == 48
    (raw,) = (trained.folder / "ways").glob("omnimedvqa-no_cond_desc-raw-run.csv")
    with raw.open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 48
    assert "nan" not in {row["option_C"] for row in table}
    assert any(row["option_C"] == row["option_D"] == "" for row in table)


def test_parts_cover_a_benchmark_once_side_by_side(trained):
    seen = []
    for index in range(3):
        trained.generate(
            *arguments(trained, "parts", "test_omnimedvqa=True", "test_chunk=3", f"test_chunk_idx={index}")
        )
        lines = (trained.folder / "parts" / f"omnimedvqa-{index}_3" / "predictions_option_text.jsonl").read_text()
        seen += [json.loads(line)["question_id"] for line in lines.splitlines()]
    assert len(seen) == len(set(seen)) == 48


def test_medcaps_own_encoding_of_the_prompt_is_another_setting(trained, capsys):
    wanted = ("test_vqarad=True", "vqa_type=omit", "limit=4")
    trained.generate(*arguments(trained, "plain", *wanted, "prompt_format=medcap_2024"))
    assert metrics(trained, "plain", "vqarad")["settings"]["prompt_format"] == "medcap_2024"
    with pytest.raises(SystemExit):
        trained.generate(*arguments(trained, "plain", *wanted))
    assert "prompt_format" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        trained.generate(*arguments(trained, "plain", "test_vqarad=True", "prompt_format=medcap_1999"))
    assert "prompt_format" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("test_pmcvqa=True",), "test_clean.csv"),
        (("test_omnimedvqa=True", "modalities=[Telepathy]"), "Telepathy"),
        (("test_omnimedvqa=True", "test_chunk=3", "test_chunk_idx=3"), "test_chunk_idx=3"),
        (("test_vqarad=True", "protocols=[exactt]"), "did you mean exact?"),
        (("test_vqarad=True", "protocols=[option_text]"), "no row has 'options'"),
        (("test_vqarad=True", "controls=[mirror]"), "mirror is unknown"),
        (("test_vqarad=True", "vqa_type=guess"), "vqa_type"),
    ],
)
def test_a_mistake_is_one_line_before_weights_are_read(trained, capsys, monkeypatch, overrides, message):
    from medcap.checkpoints.frozen_llm import LLMPlan

    monkeypatch.setattr(LLMPlan, "load", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(SystemExit) as end:
        trained.generate(*arguments(trained, "wrong", *overrides))
    assert end.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_damaged_benchmark_file_is_named_and_a_missing_image_is_counted(trained, tmp_path, capsys):
    write_phantom_benchmarks(tmp_path / "datasets", 4, seed=5, image_size=32)
    files = sorted((tmp_path / "datasets/OmniMedVQA/QA_information/Open-access").glob("*.json"))
    next(iter(sorted((tmp_path / "datasets/OmniMedVQA/Images").rglob("*.png")))).unlink()
    source = f"dataset_source={tmp_path}/datasets"
    trained.generate(*arguments(trained, "missing", "test_omnimedvqa=True", "modalities=all", source))
    result = metrics(trained, "missing", "omnimedvqa")
    assert (result["n"], result["failures"]) == (24, 6)
    assert any("6 of 24 rows cannot be asked" in notice for notice in result["notices"])
    whole = files[0].read_text(encoding="utf-8")
    files[0].write_text(whole[: len(whole) // 2], encoding="utf-8")
    with pytest.raises(SystemExit):
        trained.generate(*arguments(trained, "cut", "test_omnimedvqa=True", source))
    error = capsys.readouterr().err
    assert files[0].name in error
    assert "line" in error


def lines_of(file):
    return file.read_bytes().splitlines()


def test_a_run_that_is_killed_goes_on_and_ends_like_an_undisturbed_one(trained, server):
    wanted = ("test_vqarad=True", "batch_size=1", "controls=[shuffled_image]")
    trained.generate(*arguments(trained, "whole", *wanted))
    # It stops for good after some rows, so that it can be killed there.
    module = (
        "import sys, time; from torchtune._cli.tune import main; from medcap.evaluation.predictions import *;"
        " append = PredictionFile.append; PredictionFile.append = lambda file, row:"
        " (append(file, row), rows.pop() if rows else time.sleep(3600)); rows = [0] * 9; sys.argv[0] = 'tune'; main()"
    )
    command = ["run", "medcap/recipes/generate", "--config", "medcap/tiny/generation", *trained.model_overrides()]
    process = server.program(trained.folder / "printed", module, *command, *arguments(trained, "killed", *wanted))
    predictions = trained.folder / "killed" / "vqarad" / "predictions.jsonl"
    wait_for(lambda: not process.alive() or (predictions.exists() and len(lines_of(predictions)) == 10))
    assert process.end(signal.SIGKILL) == -signal.SIGKILL, process.errors.read_text()
    trained.generate(*arguments(trained, "killed", *wanted))
    folders = [trained.folder / name / "vqarad" for name in ("whole", "killed")]
    for name in ("predictions.jsonl", "predictions_shuffled_image.jsonl"):
        first, second = (sorted((folder / name).read_bytes().splitlines()) for folder in folders)
        assert first == second
        assert len(first) == 40
    assert (folders[0] / "metrics.json").read_bytes() == (folders[1] / "metrics.json").read_bytes()
