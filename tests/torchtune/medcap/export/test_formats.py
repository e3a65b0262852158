import pytest
import yaml

from helpers.run_folders import write_run
from medcap.errors import UserError
from medcap.export.formats import ExportOptions, export_run
from medcap.export.hub import check_folder


def test_an_unknown_format_names_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="--format gguf is unknown: use one of hf, vision, medcap"):
        export_run(tmp_path, tmp_path / "out", "gguf")


@pytest.mark.slow
def test_a_run_in_low_precision_says_what_the_export_holds(tmp_path):
    run = write_run(tmp_path, "siglip")
    notices = export_run(run, tmp_path / "out", overrides=["llm_weights=int8"])
    assert notices == [
        "the run saw through a language model in int8, the export holds its original weights: answers may differ a"
        " little"
    ]


@pytest.mark.slow
def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    run = write_run(tmp_path, "siglip")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("medcap.export.llava.folder.write_shards", fail)
    with pytest.raises(OSError, match="disk full"):
        export_run(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llm", "run", "siglip"]


@pytest.mark.slow
@pytest.mark.parametrize(("tower", "library"), [("siglip", "transformers.SiglipVisionModel"), ("biomedclip", "timm")])
def test_the_encoder_alone_has_a_card_that_says_how_it_is_loaded(tmp_path, tower, library):
    run = write_run(tmp_path, tower)
    (tmp_path / "llm/model.safetensors").unlink()
    notices = export_run(run, tmp_path / "out", "vision")
    card = (tmp_path / "out/README.md").read_text()
    assert library in notices[0] and library in card
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "image-feature-extraction" and front["license"] == "other"
    assert "This folder holds the vision tower alone" in card
    assert check_folder(tmp_path / "out")


@pytest.mark.slow
def test_a_text_half_of_its_base_model_goes_along_without_its_path(tmp_path):
    run = write_run(tmp_path, "biomedclip")
    options = ExportOptions(text_from=tmp_path / "biomedclip")
    export_run(run, tmp_path / "out", "vision", options=options)
    card = (tmp_path / "out/README.md").read_text()
    assert "the text half is that of biomedclip, which was not trained" in card and str(tmp_path) not in card
    with pytest.raises(UserError, match=r"--text-from .* goes with --format vision only"):
        export_run(run, tmp_path / "other", options=options)
    with pytest.raises(UserError, match="--dtype bf16: --format vision writes fp32"):
        export_run(run, tmp_path / "other", "vision", options=ExportOptions(dtype="bf16"))
