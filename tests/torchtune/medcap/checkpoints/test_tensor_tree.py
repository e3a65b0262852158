import json
import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from medcap.checkpoints.tensor_tree import CpuCopies, check_tree, load_tree, map_tensors, save_tree
from medcap.errors import UserError


def round_trip(folder, value):
    save_tree(folder, "state", value)
    return load_tree(folder, "state")


def assert_same(left, right):
    """Equal values of the same types, tensors bit for bit."""
    if isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor) and left.dtype == right.dtype and left.shape == right.shape
        assert torch.equal(left, right)
        return
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right) and [type(key) for key in left] == [type(key) for key in right]
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


def test_plain_values_keep_their_types_keys_and_order(tmp_path):
    value = {
        "b": [1, 1.0, True, None, "é\n", 2**70, -0.0, 0.1 + 0.2],
        "a": (1, (), [[]], {}),
        "numbered": {3: "three", 1: "one", "1": "text"},
        "looks like a tag": {"$tuple": [1], "$float": 2},
        "one tag": {"$tensor": "x"},
    }
    assert_same(value, round_trip(tmp_path, value))
    assert math.copysign(1.0, round_trip(tmp_path, value)["b"][6]) == -1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "state.safetensors"]


def test_numbers_that_json_does_not_have_are_exact_and_the_file_stays_json(tmp_path):
    loaded = round_trip(tmp_path, [math.inf, -math.inf, math.nan, 5e-324])
    assert loaded[:2] == [math.inf, -math.inf] and math.isnan(loaded[2]) and loaded[3] == 5e-324
    json.loads((tmp_path / "state.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.uint32, torch.int64, torch.bfloat16, torch.float64, torch.float8_e4m3fn],
    ids=str,
)
def test_every_dtype_and_shape_comes_back(tmp_path, dtype):
    value = {
        "matrix": torch.ones(2, 3).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "none": torch.empty(0, 4).to(dtype),
    }
    loaded = round_trip(tmp_path, value)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in loaded.items()} == {
        "matrix": (dtype, (2, 3)),
        "scalar": (dtype, ()),
        "none": (dtype, (0, 4)),
    }
    assert torch.equal(loaded["matrix"].float(), torch.ones(2, 3))


def test_tensors_of_one_memory_and_views_are_written_by_value(tmp_path):
    numbers = torch.arange(6.0)
    value = {
        "a": numbers,
        "b": numbers,
        "view": numbers[2:4],
        "t": numbers.view(2, 3).t(),
        "wide": numbers[:1].expand(3),
    }
    assert_same(value, round_trip(tmp_path, value))
    assert torch.equal(numbers, torch.arange(6.0))


def test_paths_that_are_spelt_alike_stay_apart(tmp_path):
    value = {1: torch.tensor(1.0), "1": torch.tensor(2.0), "a": {"b": torch.tensor(3.0)}, "a/b": torch.tensor(4.0)}
    assert_same(value, round_trip(tmp_path, value))
    assert_same(value, CpuCopies().copy(value))


def test_copies_wait_for_the_gpus_that_hold_the_tensors(monkeypatch):
    class OnGpu(torch.Tensor):
        is_cuda = True
        device = torch.device("cuda", 1)

    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.Tensor, "detach", lambda tensor: tensor.as_subclass(torch.Tensor))
    copied = CpuCopies().copy({"a": torch.ones(2).as_subclass(OnGpu), "b": torch.zeros(1)})
    assert copied["a"].tolist() == [1, 1] and waited == [torch.device("cuda", 1)]
    waited.clear()
    CpuCopies().copy({"b": torch.zeros(1)})
    assert waited == []


def test_a_parameter_and_an_ordered_dict_become_a_tensor_and_a_dict(tmp_path):
    loaded = round_trip(tmp_path, OrderedDict(weight=nn.Parameter(torch.ones(2))))
    assert_same({"weight": torch.ones(2)}, loaded)
    assert not loaded["weight"].requires_grad


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [{"b": object()}]}, "state/a/0/b: a value of type object"),
        ({"a": {1.5: 1}}, "state/a: a key of type float"),
        ({True: 1}, "state: a key of type bool"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, "state/a: a Tensor of torch.complex128"),
        ({"a": torch.ones(2).to_sparse()}, "state/a: a Tensor of torch.float32, torch.sparse_coo"),
        ({"a": torch.ones(2, device="meta")}, "state/a: a Tensor of torch.float32, torch.strided, on meta"),
    ],
)
def test_what_cannot_be_written_is_named_and_nothing_is_left(tmp_path, value, message):
    with pytest.raises(UserError, match=message):
        check_tree(CpuCopies().copy(value))
    with pytest.raises(UserError, match=message):
        save_tree(tmp_path, "state", value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("state.json", None, "state.json is missing or damaged"),
        ("state.json", b'{"format_version": 1, "val', "state.json is missing or damaged"),
        ("state.json", b"\xff\xfe", "state.json is missing or damaged"),
        ("state.json", b"[]", "state.json is missing or damaged"),
        ("state.json", b'{"format_version": 2}', "state.json: format_version 2 is unknown"),
        ("state.json", b'{"format_version": 1}', "state.json does not fit state.safetensors"),
        (
            "state.json",
            b'{"format_version": 1, "value": {"$tensor": "other"}}',
            "does not fit state.safetensors: 'other'",
        ),
        ("state.json", b'{"format_version": 1, "value": {"$pairs": [1]}}', "state.json does not fit"),
        ("state.safetensors", None, "state.safetensors is missing or damaged"),
        ("state.safetensors", b"half", "state.safetensors is missing or damaged"),
    ],
)
def test_a_missing_or_damaged_file_is_named(tmp_path, file, content, message):
    save_tree(tmp_path, "state", {"weight": torch.ones(4)})
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_tree(tmp_path, "state")
    assert "\n" not in str(caught.value)


def test_a_cut_off_tensor_file_is_damaged(tmp_path):
    save_tree(tmp_path, "state", {"weight": torch.ones(400)})
    content = (tmp_path / "state.safetensors").read_bytes()
    (tmp_path / "state.safetensors").write_bytes(content[:-8])
    with pytest.raises(UserError, match=r"state.safetensors is missing or damaged"):
        load_tree(tmp_path, "state")


def test_loaded_tensors_do_not_depend_on_the_file(tmp_path):
    loaded = round_trip(tmp_path, torch.ones(1000))
    with (tmp_path / "state.safetensors").open("r+b") as file:
        file.seek(-4000, 2)
        file.write(b"\1" * 4000)
    assert torch.equal(loaded, torch.ones(1000))


def test_copies_share_nothing_with_the_source_and_use_their_memory_again():
    copies = CpuCopies()
    weight = nn.Parameter(torch.ones(3))
    value = {"a": [weight, 1], "b": (weight,)}
    first = copies.copy(value)
    with torch.no_grad():
        weight.mul_(2)
    assert_same({"a": [torch.ones(3), 1], "b": (torch.ones(3),)}, first)
    position = first["a"][0].data_ptr()
    second = copies.copy({"a": [weight, 2]})
    assert second["a"][0].data_ptr() == position and torch.equal(second["a"][0], 2 * torch.ones(3))
    assert not second["a"][0].requires_grad
    other_shape = copies.copy({"a": [torch.zeros(4), 2]})
    assert torch.equal(other_shape["a"][0], torch.zeros(4))


def test_map_tensors_gives_each_tensor_its_path():
    paths = []
    map_tensors(
        {"a": {0: [torch.ones(1), 5]}, "b": (torch.ones(1),)}, lambda path, tensor: paths.append(path) or tensor
    )
    assert paths == ["/a/0/0", "/b/0"]


def train(optimizer, parameters, steps):
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def bitsandbytes_adamw(parameters):
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, lr=1e-2)


@pytest.mark.parametrize(
    "build",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, betas=(0.8, 0.95)),
        lambda parameters: torch.optim.AdamW(parameters, lr=torch.tensor(1e-2), amsgrad=True),
        lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
        lambda parameters: torch.optim.Adafactor(parameters, lr=1e-2),
        bitsandbytes_adamw,
    ],
    ids=["adamw", "adamw_tensor_lr", "sgd", "adafactor", "adamw8bit"],
)
def test_an_optimizer_continues_bit_for_bit(tmp_path, build):
    def parts():
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(80, 64)), nn.Parameter(torch.randn(8))]
        return parameters, build(parameters)

    parameters, optimizer = parts()
    train(optimizer, parameters, 3)
    saved = {"optimizer": optimizer.state_dict(), "weights": [parameter.detach() for parameter in parameters]}
    save_tree(tmp_path, "state", saved)
    loaded = load_tree(tmp_path, "state")
    assert_same(saved, loaded)
    train(optimizer, parameters, 2)

    resumed_parameters, resumed = parts()
    with torch.no_grad():
        for parameter, value in zip(resumed_parameters, loaded["weights"], strict=True):
            parameter.copy_(value)
    resumed.load_state_dict(loaded["optimizer"])
    train(resumed, resumed_parameters, 2)
    for parameter, other in zip(parameters, resumed_parameters, strict=True):
        assert torch.equal(parameter, other)
    assert_same(optimizer.state_dict(), resumed.state_dict())


def test_a_schedules_state_comes_back(tmp_path):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()
    scheduler.step()
    assert_same(scheduler.state_dict(), round_trip(tmp_path, scheduler.state_dict()))
