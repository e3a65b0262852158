from pathlib import Path

import pytest
import torch

from helpers import small_biomedclip
from helpers.run_folders import POOLED_MLP, write_run
from medcap.checkpoints.vision import plan_vision
from medcap.errors import UserError
from medcap.export.formats import ExportOptions, export_run
from medcap.legacy.meta_model import write_meta_model
from medcap.models.towers import registry


@pytest.mark.slow
def test_it_holds_medcaps_tables(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.NAMED_TOWERS, "biomedclip", small_biomedclip.small_biomedclip())
    run = write_run(tmp_path, "biomedclip", POOLED_MLP)
    assert export_run(run, tmp_path / "out", "medcap") == []
    content = torch.load(tmp_path / "out/meta_model.pt", weights_only=True)
    assert content.keys() == {"visual", "projector"}
    assert {tensor.dtype for table in content.values() for tensor in table.values()} == {torch.bfloat16}
    assert content["projector"]["2.weight"].shape == (3 * 32, 32)
    assert "library_name: medcap" in (tmp_path / "out/README.md").read_text()
    export_run(run, tmp_path / "full", "medcap", options=ExportOptions(dtype="fp32"))
    full = torch.load(tmp_path / "full/meta_model.pt", weights_only=True)
    assert full["projector"]["0.bias"].dtype == torch.float32


@pytest.mark.slow
def test_the_language_model_is_not_needed(tmp_path):
    run = write_run(tmp_path, "biomedclip", POOLED_MLP)
    (tmp_path / "llm/model.safetensors").unlink()
    export_run(run, tmp_path / "out", "medcap")
    assert (tmp_path / "out/meta_model.pt").is_file()


@pytest.mark.slow
def test_another_projector_is_refused(tmp_path):
    run = write_run(tmp_path, "siglip")
    with pytest.raises(UserError, match=r"can only hold projector=medcap.models.pooled_mlp, and this run has medcap"):
        export_run(run, tmp_path / "out", "medcap")
    assert not list(tmp_path.glob("*out*"))


def test_tiles_are_refused():
    vision = {"name": "tiny", "image_size": 16, "stride": 8, "width": 32, "depth": 1, "heads": 2, "tiles": 2}
    plan = plan_vision(vision, None, POOLED_MLP, 8)
    with pytest.raises(UserError, match="cannot say that images are cut into tiles"):
        write_meta_model(Path("unused"), plan, None)
