import json
import shutil

import pytest

from helpers.workspace import Workspace
from medcap import cli
from medcap.datasets.phantoms.writing import write_phantoms


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A run of a tiny encoder and two sets of phantoms."""
    folder = tmp_path_factory.mktemp("probe")
    Workspace(folder).train()
    write_phantoms(folder / "train", 80, seed=0, image_size=32)
    write_phantoms(folder / "test", 40, seed=1, image_size=32)
    return folder


def probe(*arguments):
    assert cli.main(["probe", *map(str, arguments)]) == 0


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(["probe", *map(str, arguments)])
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_run_is_probed_before_and_after_on_phantoms(workplace, capsys):
    probe(workplace / "run", "--train", workplace / "train", "--test", workplace / "test", "--target", "modality")
    printed = capsys.readouterr().out
    assert "before:  tiny, random weights of seed 0" in printed
    assert "features: patches; training 80 images; test 40 images" in printed
    metrics = json.loads((workplace / "run/probe/metrics.json").read_text())
    assert list(metrics["targets"]) == ["modality"]
    target = metrics["targets"]["modality"]
    assert sum(target["training_labels"].values()) == 80 and target["test_rows"] == 40
    rows = [json.loads(line) for line in (workplace / "run/probe/predictions.jsonl").read_text().splitlines()]
    truth = [json.loads(line)["modality"] for line in (workplace / "test/records.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == truth
    for side in ("before", "after"):
        share = sum(row[side] == row["label"] for row in rows) / 40
        assert target[side]["accuracy"]["value"] == pytest.approx(share)
        assert share > target["majority_accuracy"]
    change = target["after"]["accuracy"]["value"] - target["before"]["accuracy"]["value"]
    assert target["difference"]["accuracy"]["value"] == pytest.approx(change)
    assert len(metrics["checkpoint_sha256"]) == len(metrics["data"]["test"]["fingerprint"]) == 64
    page = (workplace / "run/probe/report.html").read_text()
    assert "Scores on the test images" in page and "modality" in page


@pytest.mark.slow
def test_damaged_images_are_named_and_stay_in_the_denominator(workplace, tmp_path, capsys):
    shutil.copytree(workplace / "test", tmp_path / "test")
    for number in range(10):
        (tmp_path / f"test/images/{number:06d}.png").write_bytes(b"\x89PNG cut off")
    (tmp_path / "test/images/000010.png").unlink()
    source = ["--train", workplace / "train", "--test", tmp_path / "test", "--target", "modality", "--before", "none"]
    probe(workplace / "run", *source, "--out", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "test 40 images, 11 cannot be read (count as wrong)" in printed
    assert "... and 6 more test images" in printed
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    target = metrics["targets"]["modality"]
    assert (target["test_rows"], target["damaged"]) == (40, 11)
    assert target["after"]["accuracy"]["value"] <= 29 / 40
    assert len(metrics["damaged_images"]["test"]) == 11
    assert "before" not in target and target["difference"] is None


@pytest.mark.slow
def test_one_table_is_divided_without_a_patient_on_both_sides(workplace, tmp_path, capsys):
    records = [json.loads(line) for line in (workplace / "train/records.jsonl").read_text().splitlines()]
    lines = [f"{row['image']},{row['modality']},{row['index'] // 2}" for row in records]
    (workplace / "train/labels.csv").write_text("file,answer,patient\n" + "\n".join(lines))
    columns = ["--image-column", "file", "--label-column", "answer", "--group-column", "patient"]
    probe(workplace / "run", "--train", workplace / "train/labels.csv", *columns, "--out", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["data"]["training"]["groups"] == 32 and metrics["data"]["test"]["groups"] == 8
    assert metrics["data"]["test"]["images"] == 16
    assert metrics["targets"]["answer"]["difference"]["test"] == "sign_flip"


@pytest.mark.slow
def test_what_cannot_be_probed_is_refused_in_one_line(workplace, tmp_path, capsys):
    run, train = workplace / "run", ["--train", workplace / "train"]
    assert "both hold the phantoms of seed 0" in refused(capsys, run, *train, "--test", workplace / "train")
    assert "--target shape is no label of the training images" in refused(capsys, run, *train, "--target", "shape")
    assert "nowhere does not exist" in refused(capsys, run, "--train", workplace / "nowhere")
    assert "is no run's folder, so say where the results go: --out FOLDER" in refused(capsys, tmp_path, *train)
    (tmp_path / "one.csv").write_text("image,label\na.png,x\nb.png,x\n")
    for name in "ab":
        shutil.copy(workplace / "train/images/000000.png", tmp_path / f"{name}.png")
    one = ["--train", tmp_path / "one.csv", "--test-fraction", "0.5"]
    assert "have one label only (x)" in refused(capsys, run, *one)
