import json

import pytest
import torch
from safetensors.torch import load_file

from medcap.checkpoints.weight_shards import PendingTensor, write_shards
from medcap.errors import UserError


def pending(names, read):
    return [PendingTensor(name, (4, 8), torch.float32, lambda name=name: read(name)) for name in names]


def test_one_file_needs_no_index(tmp_path):
    write_shards(tmp_path, pending("ab", lambda name: torch.full((4, 8), float(ord(name)))), 1000, "weights")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert load_file(tmp_path / "model.safetensors")["b"][0, 0] == 98


def test_shards_are_filled_in_order_and_no_tensor_is_read_before_its_shard(tmp_path):
    read = []

    def load(name):
        written = len(list(tmp_path.glob("*.safetensors")))
        read.append((name, written))
        return torch.zeros(4, 8, dtype=torch.float64)

    # 128 bytes each: two fit into 300.
    write_shards(tmp_path, pending("abcde", load), 300, "weights")
    assert read == [("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 2)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 640},
        "weight_map": {
            "a": "model-00001-of-00003.safetensors",
            "b": "model-00001-of-00003.safetensors",
            "c": "model-00002-of-00003.safetensors",
            "d": "model-00002-of-00003.safetensors",
            "e": "model-00003-of-00003.safetensors",
        },
    }
    assert load_file(tmp_path / index["weight_map"]["e"])["e"].dtype == torch.float32


def test_a_tensor_larger_than_a_shard_gets_a_file_of_its_own(tmp_path):
    write_shards(tmp_path, pending("ab", lambda _: torch.zeros(4, 8)), 10, "weights")
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 2


def test_what_does_not_fit_into_the_dtype_is_refused(tmp_path):
    large = PendingTensor("a.weight", (2, 3), torch.float16, lambda: torch.full((2, 3), 70_000.0))
    with pytest.raises(UserError, match=r"weights as torch\.float16: 6 of 6 values of tensor a\.weight are NaN or inf"):
        write_shards(tmp_path, [large], 1000, "weights")
