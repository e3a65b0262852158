import json
import subprocess
import sys

import pytest

from helpers.box_sets import write_box_sets
from helpers.downloads import Downloads, write_all
from helpers.mask_sets import write_mask_sets
from medcap.cli import main
from medcap.datasets.converters.registry import CONVERTERS


@pytest.mark.slow
def test_every_converter_runs_from_the_command_line(tmp_path, monkeypatch, capsys):
    write_all(tmp_path / "datasets")
    write_box_sets(Downloads(tmp_path / "datasets"))
    write_mask_sets(tmp_path / "outlined")
    _write_reports(Downloads(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    own = {
        "masks": ["--data-dir", "outlined/organs"],
        "slake-masks": ["--data-dir", "outlined"],
        "medsegbench": ["--file", "outlined/a_128.npz", "--names", "liver"],
        "mecovqa": ["--data-dir", "outlined"],
        "coco": ["--file", "datasets/boxes/instances.json"],
        "csv-boxes": ["--file", "datasets/boxes/boxes.csv"],
        "csv": ["--file", "datasets/mine/rows.csv"],
        "folder": ["--data-dir", "datasets/classes", "--labels", "class"],
    }
    for name in CONVERTERS:
        assert main(["prepare", name, *own.get(name, [])]) == 0
        assert "left out" in capsys.readouterr().out or name not in ("pubmedvision", "slake", "vqarad-qa")
    files = {path.name: len(path.read_text().splitlines()) for path in (tmp_path / "datasets/medcap").glob("*.json*")}
    assert files == {
        "a_128_train.jsonl": 1,
        "boxes.jsonl": 1,
        "classes.jsonl": 2,
        "coloninst_train.jsonl": 2,
        "instances.jsonl": 1,
        "iu-xray_train.jsonl": 1,
        "llava-med-60k-im-text_train.jsonl": 1,
        "llava-med_instruct-60k-im.jsonl": 1,
        "masks.jsonl": 1,
        "mecovqa_train.jsonl": 5,
        "medgrit_train.jsonl": 1,
        "medicat_train.jsonl": 1,
        "ms-cxr_train.jsonl": 1,
        "padchest-gr_train.jsonl": 1,
        "pathvqa_train.jsonl": 2,
        "pmc-patients_train.jsonl": 4,
        "pmcoa_train.json": 4,
        "pmcvqa-text_train.jsonl": 1,
        "pmcvqa_train.jsonl": 1,
        "pubmedvision_train.jsonl": 2,
        "radrestruct_train.jsonl": 1,
        "rocov2_train.jsonl": 1,
        "rows.jsonl": 2,
        "slake-boxes_train.jsonl": 1,
        "slake-masks_train.jsonl": 1,
        "slake_train.jsonl": 1,
        "textplus_pmcoa_patients_train.json": 14,
        "textplus_pmcoa_train.json": 10,
        "textplus_train.json": 7,
        "vindr-cxr_train.jsonl": 1,
        "vqamed2019_train.jsonl": 1,
        "vqarad-qa_train.jsonl": 1,
        "vqarad_test.json": 3,
        "vqarad_train.json": 3,
    }


def _write_reports(downloads):
    """Write a report of IU X-Ray and one of Rad-ReStruct, each with an image."""
    downloads.images("iu_xray/images", "CXR1/0.png")
    report = {"id": "CXR1", "report": "Clear lungs.", "image_path": ["CXR1/0.png"]}
    downloads.array("iu_xray/annotation.json", {"train": [report], "val": [], "test": []})
    top, answers = "Rad-ReStruct/data/radrestruct", {"answer_type": "single_choice", "options": ["yes", "no"]}
    downloads.images(f"{top}/images", "CXR1_a.png")
    downloads.array(f"{top}/id_to_img_mapping_frontal_reports.json", {"1": ["CXR1_a"]})
    downloads.array(
        f"{top}/train_qa_pairs/1.json", [["Are there any signs?", ["yes"], [], answers | {"path": "lung_signs"}]]
    )


def test_options_reach_the_converter(tmp_path, monkeypatch):
    write_all(tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)
    main(["prepare", "slake", "--split", "validation", "--out", "a.json"])
    main(["prepare", "pmcoa", "--instruction", "random", "--seed", "5", "--limit", "1", "--out", "b.jsonl"])
    assert json.loads((tmp_path / "a.json").read_text())[0]["conversations"][1]["value"] == "Spleen"
    (row,) = map(json.loads, (tmp_path / "b.jsonl").read_text().splitlines())
    assert row["conversations"][0]["value"] == "①" * 50 + "\n\nDescribe the appearance of the tissue or organ shown."


def test_questions_take_no_instruction(capsys):
    with pytest.raises(SystemExit):
        main(["prepare", "slake", "--instruction", "fixed"])
    assert "unrecognized arguments: --instruction" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["prepare", "folder", "--data-dir", ".", "--question", "What?", "--instruction", "fixed"])
    assert "--instruction fixed stands before captions: leave it out" in capsys.readouterr().err


def test_what_is_missing_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["prepare", "pmcoa", "--data-dir", str(tmp_path)])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"medcap: pmcoa: {tmp_path}/pmc_oa/train.jsonl does not exist: download axiong/pmc_oa")


def test_ls_datasets_says_what_each_converts_and_what_to_download(capsys):
    main(["ls", "datasets"])
    printed = capsys.readouterr().out
    for name, converter in CONVERTERS.items():
        assert f"  {name} " in printed
        assert converter.converts in printed
        assert converter.download in printed


@pytest.mark.processes
def test_a_conversion_imports_no_torch(tmp_path):
    Downloads(tmp_path).text("a.csv", "image,text\na.png,b\n")
    code = (
        "import sys; from medcap.cli import main;"
        f" main(['prepare', 'csv', '--file', '{tmp_path}/a.csv', '--out', '{tmp_path}/out', '--keep-missing']);"
        " print(sorted({'torch', 'torchtune'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
