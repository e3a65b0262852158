import pytest

from medcap.cli import main


def test_a_folder_that_is_not_there_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["push", str(tmp_path / "nowhere"), "me/model"])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"medcap: {tmp_path}/nowhere: there is no such folder; medcap export writes one\n"
