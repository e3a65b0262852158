import pytest

from medcap.cli import main


def test_a_mistake_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["import", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"medcap: {tmp_path}/nowhere: there is no such file or folder;")


def test_adapters_that_are_not_there_are_named(tmp_path, capsys):
    (tmp_path / "mm_projector.bin").touch()
    with pytest.raises(SystemExit) as end:
        main(["import", str(tmp_path / "mm_projector.bin"), "--adapters", str(tmp_path / "lora"), "--out", "out"])
    assert end.value.code == 2
    assert (
        capsys.readouterr().err
        == f"medcap: --adapters {tmp_path}/lora does not exist: give a folder or a file of adapters\n"
    )
