import pytest

from helpers.run_folders import write_run
from medcap.errors import UserError
from medcap.export.formats import export_run


def test_an_unknown_format_names_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="--format gguf is unknown: use one of hf, medcap"):
        export_run(tmp_path, tmp_path / "out", "gguf")


def test_a_run_in_low_precision_says_what_the_export_holds(tmp_path):
    run = write_run(tmp_path, "siglip")
    notices = export_run(run, tmp_path / "out", overrides=["llm_weights=int8"])
    assert notices == [
        "the run saw through a language model in int8, the export holds its original weights: answers may differ a"
        " little"
    ]


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    run = write_run(tmp_path, "siglip")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("medcap.export.llava_folder.write_shards", fail)
    with pytest.raises(OSError, match="disk full"):
        export_run(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llm", "run", "siglip"]
