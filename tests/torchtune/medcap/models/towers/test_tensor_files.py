import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from medcap.errors import UserError
from medcap.models.towers.tensor_files import open_tensor_files, read_json


class Canary:
    """Writes a file when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / "meta_model_0.pt"
    torch.save({"visual": {"a": torch.ones(2)}, "projector": Canary(canary)}, path)
    with pytest.raises(UserError, match="refused") as caught:
        open_tensor_files(path)
    assert str(path) in str(caught.value) and not canary.exists()
    path.write_bytes(pickle.dumps(Canary(canary), protocol=2))
    with pytest.raises(UserError, match="refused"):
        open_tensor_files(path)
    assert not canary.exists()


def test_tables_in_a_pickle_are_flattened_with_dots(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"visual": {"a.b": torch.ones(2, 3, dtype=torch.bfloat16)}, "n": torch.tensor([1, 2])}, path)
    files = open_tensor_files(path)
    assert files.names == {"visual.a.b", "n"} and files.shape("visual.a.b") == (2, 3)
    tensors = files.read()
    assert tensors["visual.a.b"].dtype == torch.float32 and tensors["n"].dtype == torch.int64


def test_the_format_of_before_torch_1_6_is_read(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(open_tensor_files(path).read()["a"], torch.arange(3.0))


def test_what_is_read_does_not_share_memory_with_the_file(tmp_path):
    for path in (tmp_path / "a.safetensors", tmp_path / "a.pt"):
        tensors = {"a": torch.arange(4.0)}
        save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
        before = path.read_bytes()
        open_tensor_files(path).read()["a"].add_(1)
        assert path.read_bytes() == before
        assert torch.equal(open_tensor_files(path).read()["a"], torch.arange(4.0))


def test_shards_are_read_through_their_index(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    files = open_tensor_files(index)
    assert files.names == {"a", "b"} and files.shape("b") == (2,)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": "one.safetensors", "c": "one.safetensors"}, "names tensor c"),
        ({"a": "../one.safetensors"}, "not a plain file name"),
        ({"a": "gone.safetensors"}, "gone.safetensors is missing or damaged"),
        ({}, "no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path, table, message):
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    with pytest.raises(UserError, match=message):
        open_tensor_files(index)


def test_damaged_or_missing_files_are_one_clear_line(tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_file({"a": torch.ones(100)}, whole)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:200])
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:900])
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({}, tmp_path / "nothing.pt")
    torch.save({"a": 3}, tmp_path / "number.pt")
    for name in ("cut.safetensors", "gone.safetensors", "cut.pt", "gone.pt", "empty.pt", "nothing.pt", "number.pt"):
        with pytest.raises(UserError, match=name) as caught:
            open_tensor_files(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="not a tensor file"):
        open_tensor_files(tmp_path / "model.npz")


def test_json_that_is_not_an_object_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "b.json").write_text("{")
    for name in ("a.json", "b.json", "c.json"):
        with pytest.raises(UserError, match=name):
            read_json(tmp_path / name)


def test_check_names_file_tensor_and_shapes(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x.a": torch.ones(2, 3), "x.b": torch.ones(1)}, path)
    files = open_tensor_files(path).under("x.")
    files.check({"a": (2, 3), "b": (1,)}, path, "the tower")
    with pytest.raises(UserError, match=r"a.safetensors: tensor x.a has shape \[2, 3\], but the tower needs \[3, 2\]"):
        files.check({"a": (3, 2), "b": (1,)}, path, "the tower")
    with pytest.raises(UserError, match=r"a.safetensors: tensor c \[4\] of the tower is missing \(and 1 more\)"):
        files.check({"a": (2, 3), "b": (1,), "c": (4,), "d": (5,)}, path, "the tower")
    with pytest.raises(UserError, match=r"a.safetensors: tensor x.b with shape \[1\] has no place in the tower"):
        files.check({"a": (2, 3)}, path, "the tower")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_numbers_are_refused(tmp_path, value, dtype):
    tensor = torch.ones(4, 5, dtype=dtype)
    tensor[2, 3] = value
    for name, save in (("a.safetensors", save_file), ("a.bin", torch.save)):
        save({"x.bad": tensor, "x.good": torch.ones(1), "y": tensor.clone()}, tmp_path / name)
        files = open_tensor_files(tmp_path / name)
        with pytest.raises(UserError, match=rf"{name}: 1 of 20 values of tensor x\.bad are NaN or infinite"):
            files.under("x.").read()
        assert files.renamed(lambda name: name if name == "x.good" else None).read().keys() == {"x.good"}


def test_large_numbers_and_other_types_are_finite(tmp_path):
    tensors = {"big": torch.full((3,), 3e38), "whole": torch.tensor([1, 2]), "none": torch.ones(0)}
    save_file(tensors, tmp_path / "a.safetensors")
    assert open_tensor_files(tmp_path / "a.safetensors").read().keys() == tensors.keys()
