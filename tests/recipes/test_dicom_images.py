import json

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_files import write_dicom
from helpers.workspace import log


@pytest.fixture
def scans(workspace):
    """Rows on a DICOM file, and the same rows on the picture that it must be, and on its inverse."""
    values = np.arange(400, dtype=np.int16).reshape(20, 20)
    window = {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 300, "WindowWidth": 401}
    write_dicom(workspace.folder / "scan.dcm", values, "MONOCHROME1", **window)
    shown = np.clip((values * 2.0 - 100 - 299.5) / 400 + 0.5, 0, 1) * 255
    Image.fromarray(255 - np.round(shown).astype(np.uint8)).save(workspace.folder / "scan.png")
    rows = [row for row in workspace.records() if "image" in row]
    Image.open(workspace.folder / "scan.png").point(lambda level: 255 - level).save(workspace.folder / "scan.jpg")
    for suffix in ("dcm", "png", "jpg"):
        workspace.write_data(f"{suffix}.json", [row | {"image": f"scan.{suffix}"} for row in rows])
    return workspace


def test_a_dicom_file_trains_and_answers_as_its_picture_does(scans, capsys):
    losses, answers = [], []
    for suffix in ("dcm", "png", "jpg"):
        run = scans.train(f"dataset.source={scans.folder}/{suffix}.json", "epochs=2", output=suffix)
        losses.append([row["loss"] for row in log(run)])
        capsys.readouterr()
        checkpoint = f"vision_checkpoint={scans.folder}/dcm"
        scans.generate(checkpoint, f"image={scans.folder}/scan.{suffix}", "prompt='Is there a circle?'")
        answers.append(capsys.readouterr().out)
    assert losses[0] == losses[1] != losses[2]
    assert answers[0] == answers[1]
    assert len(answers[0].splitlines()) == 1


def test_a_damaged_dicom_file_is_a_failure_of_its_row(scans):
    content = (scans.folder / "scan.dcm").read_bytes()
    (scans.folder / "cut.dcm").write_bytes(content[:-50])
    rows = [
        {"question_id": name, "image": f"{name}.dcm", "question": "Is there a circle?", "reference": "Yes"}
        for name in ("scan", "cut")
    ]
    path = scans.write_data("test.json", rows)
    scans.train("max_steps_per_epoch=1")
    scans.generate(
        f"vision_checkpoint={scans.folder}/run",
        "test_vqa=True",
        f"dataset_source={path}",
        f"output_dir={scans.folder}/answers",
    )
    lines = (scans.folder / "answers" / "vqa" / "predictions.jsonl").read_text().splitlines()
    errors = {row["question_id"]: row["error"] for row in map(json.loads, lines)}
    assert errors["scan"] is None
    assert f"{scans.folder}/cut.dcm is damaged" in errors["cut"]


def test_prepared_shards_are_trained_on(scans):
    from medcap.cli import main

    source = scans.folder / "dcm.json"
    main(["prepare", "images", "--source", str(source), "--out", str(scans.folder / "out"), "--format", "shards"])
    run = scans.train(f"dataset.source={scans.folder}/out/images-000000.tar", "epochs=1", output="shards")
    assert log(run)[-1]["loss"] > 0
