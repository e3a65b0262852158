import json
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from medcap.errors import UserError
from medcap.models.foreign_files import check_file, check_pickle, check_safetensors, foreign_kind
from medcap.models.tokenizers import check_tokenizer_files, llama3_tokenizer
from medcap.models.towers.tensor_files import open_tensor_files, read_json

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 41965888\n"
PAGE = b"\n\n<!DOCTYPE html>\n<html><head><title>404</title></head></html>"
FOREIGN = [
    (POINTER, "is a git-lfs pointer, not the file itself: run git lfs pull in its folder"),
    (PAGE, "is a saved web page, not the file itself: copy or download it again"),
    (b"\xef\xbb\xbf<HTML>", "is a saved web page"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", r"is XML \(.*AccessDenied.*as servers send"),
    (b'{"error": "Repository not found"}', r'is JSON \(\{"error": "Repository not found"\}\), not the file itself'),
    (b"", "is empty: copy or download it again"),
    (b"\x1f\x8b\x08\x00some archive", "is a gzip archive, not the file itself: unpack it"),
    (b"GGUF\x03\x00\x00\x00", "is a GGUF file"),
    ("Entry not found: naïve".encode(), r"is text \(Entry not found: naïve\)"),
]


@pytest.mark.parametrize("name", ["model.safetensors", "mm_projector.bin", "meta_model_5.pt", "consolidated.00.pth"])
@pytest.mark.parametrize(("content", "message"), FOREIGN)
def test_what_a_download_leaves_is_reported_as_what_it_is(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} {message}") as caught:
        open_tensor_files(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), FOREIGN[:-1])
def test_a_tokenizers_file_is_looked_at_too(tmp_path, content, message):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"tokenizer\.path=.*tokenizer\.model {message}"):
        llama3_tokenizer(str(path))
    with pytest.raises(UserError, match=rf"tokenizer\.path=.*tokenizer\.model {message}"):
        check_tokenizer_files({"_component_": "torchtune.models.llama2.llama2_tokenizer", "path": str(path)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *[case for case in FOREIGN if b"{" not in case[0] and not case[0].startswith(b"Entry")],
        (b'{"error": "Invalid username"}', r"is a server's error \(.*Invalid username.*\), not the file itself"),
        (b'{"statusCode": 404, "message": "gone"}', "is a server's error"),
    ],
)
def test_a_description_is_looked_at_too(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"config\.json {message}"):
        read_json(tmp_path / "config.json")


def test_a_description_with_a_message_among_its_keys_is_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"message": "hello", "model_type": "llava"}))
    assert read_json(tmp_path / "config.json")["model_type"] == "llava"


def test_archives_and_formats_are_not_mixed_up(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"a\.bin is a safetensors file: rename it to a\.safetensors"):
        open_tensor_files(tmp_path / "a.bin")
    torch.save({"a": torch.ones(2)}, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"b\.safetensors is a zip archive or a torch\.save file, not safetensors"):
        open_tensor_files(tmp_path / "b.safetensors")
    with zipfile.ZipFile(tmp_path / "c.bin", "w") as archive:
        archive.writestr("weights/mm_projector.bin", b"x")
    with pytest.raises(
        UserError, match=r"c\.bin is a zip archive of other files \(it holds weights/mm_projector\.bin\)"
    ):
        open_tensor_files(tmp_path / "c.bin")
    (tmp_path / "d.bin").write_bytes(bytes(range(200, 256)) * 9)
    with pytest.raises(UserError, match=r"d\.bin is not a torch\.save file: copy or download it again"):
        open_tensor_files(tmp_path / "d.bin")


def test_real_files_pass(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "new.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    for name in ("new.pt", "old.pt"):
        check_pickle(tmp_path / name)
        assert open_tensor_files(tmp_path / name).names == {"a"}
    check_safetensors(tmp_path / "a.safetensors")
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00")
    check_file(tmp_path / "tokenizer.model", text=True)
    (tmp_path / "ranks.model").write_text("IQ== 0\nIg== 1\n" * 90)
    check_file(tmp_path / "ranks.model", text=True)
    check_file(tmp_path / "gone.bin")


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_file_has_a_kind_or_none_and_is_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(content)
    assert "\n" not in (foreign_kind(path) or "")
    with pytest.raises(UserError) as caught:
        open_tensor_files(path)
    assert "\n" not in str(caught.value)
