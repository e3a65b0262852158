import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import medcap.recipes
from helpers.waiting import PATIENCE
from medcap import cli
from medcap.cli import main
from medcap.commands.arguments import expand_home


def test_ls_names_recipes_and_configurations(capsys):
    assert main(["ls"]) == 0
    printed = capsys.readouterr().out
    recipes = {path.stem for path in Path(medcap.recipes.__file__).parent.glob("*.py")} - {"__init__"}
    assert {name for name in recipes if f"medcap/recipes/{name} " in printed} == recipes
    assert "medcap/llama3_1/8B_biomedclip_single_device" in printed


def test_ls_names_towers_and_projectors(capsys):
    assert main(["ls", "towers"]) == 0
    printed = capsys.readouterr().out
    assert "  dinov3      224 x 224  196     303 M       transformers  DINOv3 licence, on request" in printed
    assert main(["ls", "projectors"]) == 0
    assert "  medcap.models.resampler   num_image_tokens, num_heads " in capsys.readouterr().out


def test_cp_copies_once(tmp_path, capsys):
    main(["cp", "medcap/tiny/single_device", str(tmp_path)])
    assert (tmp_path / "single_device.yaml").read_text().startswith("# Train")
    with pytest.raises(SystemExit):
        main(["cp", "medcap/tiny/single_device", str(tmp_path)])
    assert "exists already" in capsys.readouterr().err


def test_an_unknown_configuration_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["cp", "medcap/nothing", str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("medcap: there is no packaged configuration")


def test_prepare_phantom_writes_a_set(tmp_path, capsys):
    main(["prepare", "phantom", "--out", str(tmp_path / "p"), "--count", "3", "--seed", "5"])
    assert len(list((tmp_path / "p" / "images").glob("*.png"))) == 3
    assert "wrote 3 images" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["prepare"]])
def test_without_a_command_the_help_is_printed(capsys, words):
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(" ".join(["usage: medcap", *words, "[-h]"]))
    assert "vqarad" in printed if words else "validate" in printed


# argparse itself ignores that its help is not read.
@pytest.mark.processes
@pytest.mark.parametrize(
    ("words", "status"), [(["ls"], 141), (["ls", "datasets"], 141), ([], 0), (["--help"], 0), (["prepare", "-h"], 0)]
)
def test_a_reader_that_goes_away_sees_no_traceback(words, status):
    process = subprocess.Popen(
        [sys.executable, "-m", "medcap.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=PATIENCE) == status


def test_a_command_that_fails_in_an_unforeseen_way_is_one_line(monkeypatch, capsys):
    def broken(_):
        raise ValueError("a bug")

    monkeypatch.setattr(cli, "_list", broken)
    with pytest.raises(SystemExit) as end:
        main(["ls", "datasets"])
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("medcap: medcap ls datasets ended in an error that was not foreseen: ValueError: a bug")


def test_ctrl_c_is_status_130(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_list", interrupted)
    with pytest.raises(SystemExit) as end:
        main(["ls"])
    assert (end.value.code, capsys.readouterr().err) == (130, "")


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--seed", "-1"],
        ["demo", "--seed", "4294967296"],
        ["chat", "run", "--seed", "x"],
        ["probe", "run", "--train", "x", "--seed", "-5"],
        ["prepare", "csv", "--file", "x.csv", "--seed", "-1"],
        ["prepare", "csv", "--file", "x.csv", "--limit", "0"],
        ["prepare", "images", "--source", "x", "--out", "y", "--shuffle", "-1"],
        ["prepare", "phantom", "--out", "x", "--count", "0", "--seed", "1"],
        ["prepare", "phantom-benchmarks", "--out", "x", "--count", "1", "--seed", "-1"],
    ],
)
def test_numbers_that_mean_nothing_are_refused(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "is not a whole number" in (told := capsys.readouterr().err) or "is no whole number" in told


def test_a_tilde_at_the_start_of_a_path_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    options = Namespace(out=Path("~/run"), file="~/a.json", roots=[Path("~/b"), "~/c"], system="~/is a path", seed=1)
    expand_home(options)
    assert options == Namespace(
        out=Path("/home/anna/run"),
        file="/home/anna/a.json",
        roots=[Path("/home/anna/b"), "/home/anna/c"],
        system="~/is a path",
        seed=1,
    )


def test_what_is_written_to_a_tilde_is_in_the_home_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    main(["prepare", "phantom", "--out", "~/p", "--count", "1", "--seed", "5"])
    main(["cp", "medcap/tiny/single_device", "~"])
    assert {path.name for path in tmp_path.iterdir()} == {"p", "single_device.yaml"}
