import pytest

from helpers.run_folders import write_run
from medcap.cli import main
from medcap.commands.export import parse_size
from medcap.errors import UserError


@pytest.mark.slow
def test_export_import_and_a_look_at_what_is_there(tmp_path, capsys):
    run = write_run(tmp_path, "clip")
    main(["export", str(run), "--out", str(tmp_path / "out"), "--shard-size", "100KB", "llm_weights=bf16"])
    assert f"wrote {tmp_path / 'out'} (hf)" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    main(["import", str(tmp_path / "out"), "--out", str(tmp_path / "back")])
    assert f"wrote {tmp_path / 'back'}" in capsys.readouterr().out


def test_a_mistake_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["export", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("medcap: ")


@pytest.mark.parametrize(("text", "size"), [("5GB", 5_000_000_000), ("1.5mb", 1_500_000), ("100KB", 100_000)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "GB", "-1GB", "5TB", "nanGB"])
def test_something_that_is_not_a_size(text):
    with pytest.raises(UserError, match="is no size: write it as 500MB or 5GB"):
        parse_size(text)
