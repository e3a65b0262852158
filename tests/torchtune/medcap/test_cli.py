from pathlib import Path

import pytest

import medcap.recipes
from medcap.cli import main


def test_ls_names_recipes_and_configurations(capsys):
    assert main(["ls"]) == 0
    printed = capsys.readouterr().out
    recipes = {path.stem for path in Path(medcap.recipes.__file__).parent.glob("*.py")} - {"__init__"}
    assert {name for name in recipes if f"medcap/recipes/{name} " in printed} == recipes
    assert "medcap/llama3_1/8B_biomedclip_single_device" in printed


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
