import json
import os

import nibabel
import numpy as np
import pytest

from helpers.damaged_rows import damages, good_row, write_images
from helpers.tokenizers import tiny_tokenizer_file
from helpers.workspace import TINY_VISION, Workspace
from medcap.cli import main

pytestmark = pytest.mark.processes


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path)
    return tmp_path / "data"


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def validate(*arguments):
    """The exit status."""
    try:
        return main(["validate", *map(str, arguments), "--processes", "1"])
    except SystemExit as end:
        return end.code


def test_a_good_file_ends_with_status_0(folder, capsys):
    path = write(folder / "rows.jsonl", [good_row(), good_row("images/1.png")])
    tokenizer = tiny_tokenizer_file(folder / "llm" / "original").parent.parent
    assert validate(path, "--tokenizer", tokenizer, "--num-image-tokens", 4, "--max-seq-len", 96) == 0
    printed = capsys.readouterr().out
    assert "rows cut at 96 tokens: 0" in printed
    assert printed.splitlines()[-1] == f"{path}: all 2 rows can be used"


def test_bad_rows_are_listed_written_and_end_with_status_1(folder, tmp_path, capsys):
    lines = [json.dumps(good_row()), "", damages()["cut off"].text, json.dumps(good_row("\udc80\n.png"))]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    out, fixed = tmp_path / "out.json", tmp_path / "fixed.jsonl"
    assert validate(folder / "rows.jsonl", "--json", out, "--fix", fixed) == 1
    printed = capsys.readouterr().out
    assert "bad row 1: not valid JSON (" in printed
    assert "bad row 2: image \\udc80 .png does not exist in" in printed
    assert "rules about tokens were not checked: give --tokenizer" in printed
    assert "2 of 3 rows cannot be used (json 1, image path 1)" in printed
    assert f"wrote 1 row to {fixed}" in printed
    assert f"dataset.image_roots=[{folder},.]" in printed
    found = json.loads(out.read_text())
    assert (found["rows"], found["token_rules"]) == (3, None)
    assert [(row["row"], row["rules"]) for row in found["bad_rows"]] == [(1, ["json"]), (2, ["image path"])]
    assert fixed.read_text() == lines[0] + "\n"


def test_repeated_rows_and_another_file_are_reported_and_are_not_an_error(folder, capsys):
    train = write(folder / "train.jsonl", [good_row(), good_row(), good_row("images/1.png")])
    test = write(folder / "test.jsonl", [{"image": "images/1.png", "question": "?"}])
    assert validate(train, "--against", test) == 0
    printed = capsys.readouterr().out
    assert "rows that repeat another one: 1 (rows 0 = 1)" in printed
    assert f"also in {test} (1 rows): 1 of 2 images, 0 rows\n  image of row 2 is there in row 0" in printed


def test_image_roots_are_those_of_training(folder, tmp_path):
    path = write(folder / "rows.jsonl", [good_row()])
    assert validate(path) == 0
    assert validate(path, "--image-root", tmp_path / "data" / "images") == 1
    elsewhere = write(tmp_path / "rows.jsonl", [good_row()])
    assert validate(elsewhere, "--image-root", folder) == 0


def test_all_sources_of_a_configuration_are_checked(folder, tmp_path, capsys):
    workspace = Workspace(tmp_path)
    good = write(folder / "good.jsonl", [good_row()])
    bad = write(tmp_path / "bad.jsonl", [good_row(), {}])
    sources = [{"source": str(good)}, {"source": str(bad), "name": "other", "image_roots": [str(folder)]}]
    words = (*workspace.model_overrides(), f"vision={TINY_VISION}", "projector.num_image_tokens=4", "output_dir=x")
    words = ("--config", "medcap/tiny/single_device", *words, f"dataset.sources={json.dumps(sources)}")
    assert validate(*words, "dataset.source=null") == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "good:" and "other:" in printed
    assert f"{good}: the row can be used" in printed
    assert printed[-1].startswith(f"{bad}: 1 of 2 rows cannot be used")
    assert any(line.startswith("bad row 1: ") for line in printed)
    assert validate(*words, "dataset.source=null", "--json", tmp_path / "out.json") == 1
    found = json.loads((tmp_path / "out.json").read_text())
    assert {name: part["rows"] for name, part in found.items()} == {"good": 1, "other": 2}


def test_tar_shards_are_checked(folder, capsys):
    import tarfile

    with tarfile.open(folder / "a.tar", "w") as tar:
        (folder / "0.txt").write_text("Normal")
        for name, file in (("0.png", "images/0.png"), ("0.txt", "0.txt"), ("1.png", "images/cut.png")):
            tar.add(folder / file, name)
        tar.add(folder / "0.txt", "1.txt")
    assert validate(folder / "a.tar") == 1
    assert "bad row 1: image " in capsys.readouterr().out
    assert validate(folder / "a.tar", "--fix", folder / "x.jsonl") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.json",), "data file none.json does not exist"),
        ((), "name the file to look at"),
        (("{rows}", "--max-seq-len", "0"), "--max-seq-len 0 must be at least 1"),
        (("{rows}", "--conversation-style", "x"), "--conversation-style x is unknown"),
        (("{rows}", "--tokenizer", "none"), "tokenizer.path=none: no such file"),
        (("{rows}", "--fix", "{rows}"), "would replace the file that is checked"),
        (("{rows}", "--fix", "x.txt"), "must end in .json or .jsonl"),
        (("{rows}", "--fix", "x.json", "--json", "x.json"), "name two files"),
        (("{rows}", "--against", "none.json"), "--against: data file none.json does not exist"),
        (("{rows}", "--image-root", "none"), "image root none is not a folder"),
        (("{rows}", "--json", "{rows}/x.json"), "--json {rows}/x.json cannot be written"),
        (("--config", "medcap/nothing"), "neither a file nor a packaged configuration"),
        (("--config", "medcap/tiny/single_device", "{rows}"), "name the file before --config"),
        (("{cut}",), "not valid JSON"),
    ],
)
def test_misuse_is_one_line_and_status_2(folder, capsys, arguments, message):
    names = {"rows": write(folder / "rows.jsonl", [good_row()]), "cut": folder / "cut.json"}
    names["cut"].write_text("[{}, ")
    assert validate(*(argument.format(**names) for argument in arguments)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("medcap: ")]
    assert message.format(**names) in line
    assert not os.path.exists("x.json")


def test_slices_of_a_volume_name_it_once(folder, capsys):
    volume = nibabel.Nifti1Image(np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6), np.eye(4))
    for name in ("a.nii.gz", "b.nii.gz"):
        nibabel.save(volume, folder / name)
    rows = write(folder / "volumes.jsonl", [good_row(name) | {"frames": "2 even"} for name in ("a.nii.gz", "b.nii.gz")])
    assert validate(rows) == 0
    assert "another one's content: row 0's a.nii.gz = row 1's b.nii.gz" in capsys.readouterr().out
