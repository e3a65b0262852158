"""Each part that docs/extending.md adds is applied to a copy of the source, alone, and used there."""

import json

import pytest
from PIL import Image

from helpers.source_copy import REPOSITORY, SourceCopy, sections

SECTIONS = sections(REPOSITORY / "docs" / "extending.md")

# Trains with the words of the command line; its tower and its projector are those of the configuration, or the words'.
TRAIN = """
import json, sys
from pathlib import Path
from omegaconf import OmegaConf
from safetensors.torch import load_file
from helpers.workspace import TINY_VISION, Workspace, tune
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.configs import packaged_configs

folder = Path("work")
folder.mkdir()
workspace = Workspace(folder)
recipe, name, *words = workspace.training()
cfg = OmegaConf.load(packaged_configs()[name])
del cfg.vision, cfg.projector.num_image_tokens  # an override would add to their options
OmegaConf.save(cfg, "config.yaml")
words = [word for word in words if not word.startswith(("vision=", "projector."))]
vision = [] if any(word.startswith("vision=") for word in sys.argv) else [f"vision={TINY_VISION}"]
tune(recipe, "config.yaml", *words, *vision, *sys.argv[1:])
step = latest_checkpoint(folder / "run")
"""
CLI = "import sys; from medcap.cli import main; sys.exit(main())"


@pytest.fixture
def copy(tmp_path, server):
    return SourceCopy(tmp_path / "copy", server)


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_the_page_has_these_parts():
    assert list(SECTIONS) == [
        "A tower",
        "A projector",
        "A component",
        "A task",
        "A protocol",
        "A converter",
        "A command",
    ]


@pytest.mark.slow
def test_a_tower_encodes_an_image_and_is_trained(copy):
    copy.apply(SECTIONS["A tower"])
    program = """
import torch
from medcap.models.towers.registry import build_tower, resolve_tower

source = resolve_tower({"name": "grid", "image_size": 16, "cells": 2, "width": 4})
tower = build_tower(source.spec, source.preprocess)
images = torch.zeros(1, 3, 16, 16)
images[:, 0, :, 8:] = 1  # the right half is red
with torch.no_grad():
    tower.colours.weight.copy_(torch.eye(4, 3))
    tower.colours.bias.zero_()
assert tower.shape.num_patches == 4 and tower.shape.patch_dim == 4 and tower.shape.pooled_dim == 0
assert tower.encode_patches(images)[0, :, 0].tolist() == [0.0, 1.0, 0.0, 1.0]
"""
    shown = """
description = json.loads((step / "vision.json").read_text())
assert description["tower"] == {"kind": "grid", "image_size": 16, "cells": 2, "width": 32}, description
assert set(load_file(step / "vision.safetensors")) >= {"vision.colours.weight", "projector.0.weight"}
"""
    printed = copy.run(
        program + TRAIN + shown, "vision={name: grid, image_size: 16, cells: 2}", "trainable=[vision,projector]"
    )
    assert "vision tower         trained" in printed


@pytest.mark.slow
def test_a_projector_is_built_by_the_configuration(copy):
    copy.apply(SECTIONS["A projector"])
    shown = """
tensors = load_file(step / "vision.safetensors")
assert tensors["projector.0.weight"].shape == (4, 32) and tensors["projector.1.weight"].shape == (32, 4)
"""
    copy.run(TRAIN + shown, "projector=medcap.models.low_rank", "projector.rank=4")


@pytest.mark.slow
def test_a_component_is_trained_saved_and_opened(copy):
    copy.apply(SECTIONS["A component"])
    shown = """
import torch
from medcap.generation.run import open_run

factors = load_file(step / "token_gain.safetensors")["token_gain.factors"]
assert factors.shape == (32,) and not torch.equal(factors, torch.full((32,), 1.5))
assert torch.equal(open_run(folder / "run").model.components["token_gain"].factors.detach(), factors)
"""
    printed = copy.run(
        TRAIN + shown,
        "token_gain._component_=medcap.models.token_gain.token_gain",
        "token_gain.start=1.5",
        "trainable=[projector,token_gain]",
    )
    assert "token gain           trained              32 parameters" in printed


@pytest.mark.slow
def test_a_task_is_run_and_scored(copy):
    copy.apply(SECTIONS["A task"])
    program = """
run = folder / "run"
workspace.generate(f"vision_checkpoint={run}", f"output_dir={run}", "test_counting=true", "dataset_source=counting")
metrics = json.loads((run / "counting" / "metrics.json").read_text())
assert metrics["n"] == 2 and metrics["failures"] == 1, metrics
predictions = list((run / "counting").glob("predictions*.jsonl"))
assert "How many nodules are there?" in predictions[0].read_text()
"""
    copy.folder.joinpath("counting").mkdir()
    Image.new("RGB", (16, 16)).save(copy.folder / "counting" / "a.png")
    write_lines(
        copy.folder / "counting" / "counting.jsonl",
        [{"image": "a.png", "object": "nodules", "count": 2}, {"image": "gone.png", "object": "ribs", "count": 1}],
    )
    copy.run(TRAIN + program)


@pytest.mark.slow
def test_a_protocol_scores_a_file_of_answers(copy):
    copy.apply(SECTIONS["A protocol"])
    answers = [
        {"question_id": "1", "question": "Is there a mass?", "reference": "yes", "prediction": "Yes, on the left."},
        {"question_id": "2", "question": "Is there a mass?", "reference": "yes", "prediction": "I see no mass."},
        {"question_id": "3", "question": "Is there a mass?", "reference": "no", "prediction": ""},
    ]
    write_lines(copy.folder / "answers.jsonl", answers)
    printed = copy.run(CLI, "score", "answers.jsonl", "--protocol", "first_word", "--per-row", "rows.jsonl")
    rows = [json.loads(line) for line in (copy.folder / "rows.jsonl").read_text().splitlines()]
    assert [row["first_word"]["correct"] for row in rows] == [True, False, False]
    assert '"accuracy": 0.3333333333333333' in printed


def test_a_converter_writes_rows(copy):
    copy.apply(SECTIONS["A converter"])
    rows = [
        {"image": "a.png", "questions": ["Which organ?", "Is it normal?"], "answers": ["Lung", "Yes"]},
        {"image": "a.png", "questions": ["Which organ?"], "answers": []},
    ]
    write_lines(copy.folder / "datasets" / "Dialogues" / "dialogues.jsonl", rows)
    (copy.folder / "datasets" / "Dialogues" / "images").mkdir()
    Image.new("RGB", (8, 8)).save(copy.folder / "datasets" / "Dialogues" / "images" / "a.png")
    printed = copy.run(CLI, "prepare", "dialogues", "--out", "made")
    lines = (copy.folder / "made" / "dialogues_train.jsonl").read_text().splitlines()
    assert len(lines) == 1
    values = [turn["value"] for turn in json.loads(lines[0])["conversations"]]
    assert [value.split("\n")[-1] for value in values] == ["Which organ?", "Lung", "Is it normal?", "Yes"]
    assert "there are not as many answers as questions" in printed


def test_a_command_prints(copy):
    copy.apply(SECTIONS["A command"])
    write_lines(copy.folder / "rows.jsonl", [{}, {}])
    assert copy.run(CLI, "count", "rows.jsonl") == "2 rows in rows.jsonl\n"
