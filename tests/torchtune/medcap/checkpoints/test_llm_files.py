"""An LLM's files: found, and refused with the file's name when missing, cut short or of another format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.llm_checkpoints import random_decoder, tiny_llm, write_hugging_face_llm, write_meta_llm
from medcap.checkpoints.llm_files import TensorReader, find_llm_files
from medcap.errors import UserError


@pytest.fixture(scope="module")
def decoder() -> torch.nn.Module:
    return random_decoder(tiny_llm())


def test_headers_say_dtype_shape_and_file(tmp_path: Path, decoder: torch.nn.Module) -> None:
    files = find_llm_files(write_hugging_face_llm(tmp_path, decoder.bfloat16(), shards=2))
    decoder.float()
    assert files.kind == "hugging_face"
    assert [path.name for path in files.paths] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    (header,) = files.headers["model.layers.0.self_attn.k_proj.weight"]
    assert (header.dtype, header.shape, header.num_bytes) == (torch.bfloat16, (16, 32), 1024)
    assert files.config["hidden_size"] == 32
    assert files.params is None


@pytest.mark.slow
def test_reader_concatenates_pieces_and_maps_again(tmp_path: Path, decoder: torch.nn.Module) -> None:
    files = find_llm_files(write_meta_llm(tmp_path, decoder, pieces=4))
    assert [header.shape for header in files.headers["layers.1.feed_forward.w2.weight"]] == [(32, 16)] * 4
    reader, layer = TensorReader(files), decoder.layers[1]
    for _ in range(20):
        assert torch.equal(reader.read("layers.1.feed_forward.w2.weight", 1), layer.mlp.w2.weight)
        assert torch.equal(reader.read("layers.1.feed_forward.w1.weight", 0), layer.mlp.w1.weight)
        assert torch.equal(reader.read("layers.1.ffn_norm.weight"), layer.mlp_norm.scale)


def test_meta_files_are_found_without_the_folder_original(tmp_path: Path, decoder: torch.nn.Module) -> None:
    files = find_llm_files(write_meta_llm(tmp_path, decoder) / "original")
    assert [path.name for path in files.paths] == ["consolidated.00.pth"]
    assert files.params["n_heads"] == 4


def test_missing_folder_and_empty_folder_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpointer\.checkpoint_dir=.*none: no such folder"):
        find_llm_files(tmp_path / "none")
    with pytest.raises(UserError, match=r"holds no weights: neither model\*\.safetensors nor"):
        find_llm_files(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"pytorch_model\*\.bin files cannot be used"):
        find_llm_files(tmp_path)


def test_missing_files_are_named(tmp_path: Path, decoder: torch.nn.Module) -> None:
    write_hugging_face_llm(tmp_path / "hf", decoder, shards=2)
    (tmp_path / "hf/model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"names model-00002-of-00002\.safetensors, which is not there"):
        find_llm_files(tmp_path / "hf")
    write_meta_llm(tmp_path / "meta", decoder, pieces=2)
    (tmp_path / "meta/original/consolidated.00.pth").unlink()
    with pytest.raises(UserError, match=r"lacks consolidated\.00\.pth"):
        find_llm_files(tmp_path / "meta")
    with pytest.raises(UserError, match=r"checkpointer\.checkpoint_files: .*nothing\.pth does not exist"):
        find_llm_files(tmp_path / "meta", ["nothing.pth"])
    with pytest.raises(UserError, match=r"checkpointer\.checkpoint_files must be a list"):
        find_llm_files(tmp_path / "meta", "original/consolidated.01.pth")


def test_mixed_formats_are_refused(tmp_path: Path, decoder: torch.nn.Module) -> None:
    write_meta_llm(write_hugging_face_llm(tmp_path, decoder), decoder)
    with pytest.raises(UserError, match=r"only \.safetensors files \(Hugging Face\) or only"):
        find_llm_files(tmp_path, ["model.safetensors", "original/consolidated.00.pth"])


def test_index_cannot_point_out_of_the_folder(tmp_path: Path, decoder: torch.nn.Module) -> None:
    write_hugging_face_llm(tmp_path / "other", decoder)
    (tmp_path / "here").mkdir()
    index = '{"weight_map": {"lm_head.weight": "../other/model.safetensors"}}'
    (tmp_path / "here/model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"names \.\./other/model\.safetensors, which is not there"):
        find_llm_files(tmp_path / "here")


@pytest.mark.parametrize("name", ["model.safetensors", "original/consolidated.00.pth"])
def test_damaged_files_are_named(tmp_path: Path, decoder: torch.nn.Module, name: str) -> None:
    write_meta_llm(write_hugging_face_llm(tmp_path, decoder), decoder)
    file = tmp_path / name
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{file.name} is cut short or no checkpoint"):
        find_llm_files(tmp_path, [name])
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match=rf"{file.name} is a git-lfs pointer"):
        find_llm_files(tmp_path, [name])


def test_pickled_code_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"norm.weight": Trap()}, tmp_path / "consolidated.00.pth")
    with pytest.raises(UserError, match=r"consolidated\.00\.pth is cut short or no checkpoint"):
        find_llm_files(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_training_state_in_a_pth_file_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"norm.weight": torch.ones(2)}, "epoch": 3}, tmp_path / "consolidated.00.pth")
    with pytest.raises(UserError, match="not a plain table of tensors"):
        find_llm_files(tmp_path)


def test_damaged_config_is_named(tmp_path: Path, decoder: torch.nn.Module) -> None:
    write_hugging_face_llm(tmp_path, decoder)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        find_llm_files(tmp_path)
