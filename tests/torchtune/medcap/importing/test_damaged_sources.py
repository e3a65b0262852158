import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.llava_sources import LINEAR, MLP, llava_original
from helpers.vision_checkpoints import write_hugging_face_folder
from medcap.errors import UserError
from medcap.importing.sources import ImportOptions, import_model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    write_hugging_face_folder(tmp_path / "clip", "clip", "vision")
    bad = {**MLP, "2.bias": torch.full((32,), value)}
    file = tmp_path / "mm_projector.bin"
    torch.save({f"model.mm_projector.{name}": tensor.half() for name, tensor in bad.items()}, file)
    message = r"mm_projector\.bin: 32 of 32 values of tensor model\.mm_projector\.2\.bias are NaN or infinite"
    with pytest.raises(UserError, match=message):
        import_model(file, tmp_path / "run", ImportOptions(vision=str(tmp_path / "clip")))
    (tmp_path / "folder").mkdir()
    source, _ = llava_original(tmp_path / "folder", "mlp2x_gelu", bad, False)
    with pytest.raises(UserError, match=r"2\.bias are NaN or infinite"):
        import_model(source, tmp_path / "run")
    path = tmp_path / "clip/model.safetensors"
    tensors = load_file(path)
    name = min(name for name in tensors if name.endswith("layers.0.mlp.fc1.weight"))
    save_file(tensors | {name: tensors[name] * value}, path, metadata={"format": "pt"})
    torch.save({f"model.mm_projector.{name}": tensor for name, tensor in MLP.items()}, file)
    with pytest.raises(UserError, match=r"model\.safetensors: .*layers\.0\.mlp\.fc1\.weight are NaN or infinite"):
        import_model(file, tmp_path / "run", ImportOptions(vision=str(tmp_path / "clip")))
    assert not (tmp_path / "run").exists()


def test_a_language_model_that_is_not_finite_is_refused_and_nothing_is_left(tmp_path):
    source, _ = llava_original(tmp_path, "mlp2x_gelu", MLP, False)
    (path,) = source.glob("*.safetensors")
    tensors = load_file(path)
    save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"] * float("nan")}, path)
    with pytest.raises(UserError, match=r"language model as torch\.float32: .*model\.norm\.weight are NaN or infinite"):
        import_model(source, tmp_path / "run")
    assert not list(tmp_path.glob("*run*"))


def test_a_projector_of_empty_tensors_tells_the_reason(tmp_path):
    write_hugging_face_folder(tmp_path / "clip", "clip", "vision")
    file = tmp_path / "mm_projector.bin"
    for projector in (MLP, LINEAR):
        torch.save({f"model.mm_projector.{name}": torch.ones(0) for name in projector}, file)
        with pytest.raises(UserError, match=r"tensor .* of the projector has shape \[0\]; it is empty, as DeepSpeed's"):
            import_model(file, tmp_path / "run", ImportOptions(vision=str(tmp_path / "clip")))
    (tmp_path / "folder").mkdir()
    empty = {name: torch.ones(0) for name in MLP}
    source, _ = llava_original(tmp_path / "folder", "mlp2x_gelu", empty, False)
    with pytest.raises(UserError, match=r"tensor .* of the projector has shape \[0\]; it is empty, as DeepSpeed's"):
        import_model(source, tmp_path / "run")


def test_a_pointer_in_place_of_any_file_of_a_source_is_reported(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    source, _ = llava_original(tmp_path, "mlp2x_gelu", MLP, False)
    for path in sorted([*source.glob("*.safetensors"), source / "config.json", source / "original/tokenizer.model"]):
        content = path.read_bytes()
        path.write_text(pointer)
        with pytest.raises(
            UserError, match=rf"{path.name} is a git-lfs pointer, not the file itself: run git lfs pull"
        ):
            import_model(source, tmp_path / "run")
        path.write_bytes(content)
    assert not list(tmp_path.glob("*run*"))


def test_other_sources_are_reported_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file or folder; download a model of the hub first"):
        import_model("llava-hf/llava-1.5-7b-hf", tmp_path / "run")
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(UserError, match=r"notes.txt is of no known format"):
        import_model(tmp_path / "notes.txt", tmp_path / "run")
    torch.save({"visual": {"x": {1, 2}}}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"only tensors can be read|holds more than tensors"):
        import_model(tmp_path / "bad.pt", tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine").touch()
    with pytest.raises(UserError, match="exists already"):
        import_model(tmp_path / "notes.txt", tmp_path / "run")
