"""What trains, on two processes as on one: gradients, norm, weights and optimizer state, however it is divided."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.processes import run_in_processes
from medcap.errors import UserError
from medcap.training.distributed.context import DistributedContext, single_world
from medcap.training.distributed.sharded_optimizer import ELEMENT_WISE, ShardedOptimizer

pytestmark = pytest.mark.processes

ONE = single_world(torch.device("cpu"))
ADAMW = {"_component_": "torch.optim.AdamW", "lr": 0.05, "weight_decay": 0.1}
FUSED = {**ADAMW, "fused": True}
SGD = {"_component_": "torch.optim.SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.01}
ADAFACTOR = {"_component_": "torch.optim.Adafactor", "lr": 0.05}


class Parts(nn.Module):
    """Odd sizes, a scalar, one tensor larger than a shard, and a head that only some batches use."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.bias = nn.Parameter(torch.randn(7))
        self.wide = nn.Parameter(torch.randn(7, 79) * 0.1)
        self.head = nn.Parameter(torch.randn(7))
        self.unused = nn.Parameter(torch.randn(3))

    def loss(self, inputs: Tensor, with_head: bool) -> Tensor:
        rows = torch.tanh(inputs @ self.wide.T + self.bias) * self.scale  # [n, 7]
        return ((rows * self.head if with_head else rows) - 0.3).square().sum()


def _inputs(step: int, rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(3 + rank, 79, generator=generator)


def _accumulate(model: Parts, step: int, ranks: range) -> None:
    for rank in ranks:
        # Step 1 has the head on no process, step 2 on rank 1 alone.
        model.loss(_inputs(step, rank), with_head=step == 0 or (step == 2 and rank == 1)).backward()


def _train(
    part: ShardedOptimizer, model: Parts, steps: range, ranks: range, max_norm: float | None = 0.5
) -> list[float]:
    norms = []
    for step in steps:
        _accumulate(model, step, ranks)
        norms.append(part.reduce(1 / 8, max_norm).item())
        part.step()
        part.zero_grad()
    return norms


def _weights(model: nn.Module) -> dict[str, list[float]]:
    return {name: parameter.detach().flatten().tolist() for name, parameter in model.named_parameters()}


def _lists(value: Any) -> Any:
    """A state with its tensors as lists, for sending it out of a process."""
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), value.tolist()]
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _tensors(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 3 and value[0] == "torch.float32":
        return torch.tensor(value[2])
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    return [_tensors(item) for item in value] if isinstance(value, list) else value


def _plain(optimizer: dict[str, Any], steps: range, state: dict[str, Any] | None = None) -> tuple[Parts, Any, list]:
    """The reference: torch's optimizer, on the batches of both ranks."""
    model = Parts()
    made = getattr(torch.optim, optimizer["_component_"].rpartition(".")[2])(
        model.parameters(), **{key: value for key, value in optimizer.items() if key != "_component_"}
    )
    norms = []
    for step in steps:
        _accumulate(model, step, range(2))
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        for gradient in gradients:
            gradient /= 8
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
        made.step()
        made.zero_grad()
    return model, made.state_dict(), norms


def _assert_close(found: Any, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(_tensors(found), _tensors(expected), rtol=tolerance, atol=tolerance)


def test_one_process_is_torchs_own_optimizer_bit_for_bit() -> None:
    model = Parts()
    part = ShardedOptimizer(dict(model.named_parameters()), ADAMW, ONE)
    part.synchronise()
    assert (part.sharded, part.why) == (False, "optimizer state on the one process")
    norms = _train(part, model, range(3), range(2))
    plain, state, plain_norms = _plain(ADAMW, range(3))
    assert (_weights(model), _lists(part.state_dict())) == (_weights(plain), _lists(state))
    assert norms == pytest.approx(plain_norms, rel=1e-6)


@pytest.mark.parametrize("optimizer", [ADAMW, FUSED, SGD, ADAFACTOR], ids=["adamw", "fused", "sgd", "adafactor"])
def test_two_processes_learn_what_one_learns(optimizer: dict[str, Any]) -> None:
    def work(world: DistributedContext) -> Any:
        model = Parts(seed=world.rank)
        part = ShardedOptimizer(dict(model.named_parameters()), optimizer, world)
        part.synchronise()
        norms = _train(part, model, range(3), range(world.rank, world.rank + 1))
        return part.sharded, part.why, norms, _weights(model), _lists(part.state_dict())

    (sharded, why, norms, weights, state), (_, _, other_norms, other_weights, nothing) = run_in_processes(work)
    assert (sharded, why) == {
        "torch.optim.Adafactor": (
            False,
            "optimizer state kept whole on each of 2 processes: Adafactor does not work element by element",
        )
    }.get(optimizer["_component_"], (True, "optimizer state sharded over 2 processes"))
    assert (weights, norms) == (other_weights, other_norms)
    plain, plain_state, plain_norms = _plain(optimizer, range(3))
    _assert_close(norms, plain_norms)
    _assert_close(weights, _weights(plain))
    _assert_close(state, _lists(plain_state))
    # The head took part in two of the three steps; what never took part has no state and was not decayed.
    assert 4 not in state["state"] and weights["unused"] == _weights(Parts())["unused"]
    if "step" in state["state"][0]:
        assert [state["state"][index]["step"][2] for index in range(4)] == [3, 3, 3, 2]
    assert nothing is None


@pytest.mark.parametrize("optimizer", sorted(ELEMENT_WISE, key=lambda kind: kind.__name__))
def test_every_element_wise_optimizer_is_one_and_continues_from_a_state(optimizer: type[torch.optim.Optimizer]) -> None:
    node = {"_component_": f"torch.optim.{optimizer.__name__}", "lr": 0.003}

    def work(world: DistributedContext) -> Any:
        first, again = Parts(), Parts()
        part = ShardedOptimizer(dict(first.named_parameters()), node, world)
        ranks = range(world.rank, world.rank + 1)
        _train(part, first, range(2), ranks)
        state = _tensors(world.gather(_keyed(_lists(part.state_dict())))[0])
        again.load_state_dict(first.state_dict())
        other = ShardedOptimizer(dict(again.named_parameters()), node, world)
        other.load_state_dict(_unkeyed(state))
        _train(part, first, range(2, 4), ranks)
        _train(other, again, range(2, 4), ranks)
        return part.sharded, _weights(first), _weights(again)

    for sharded, uninterrupted, resumed in run_in_processes(work):
        assert sharded
        assert uninterrupted == resumed
        # Looser: a gradient near zero is divided by its own size.
        _assert_close(uninterrupted, _weights(_plain(node, range(4))[0]), 1e-5)


def _keyed(state: dict[str, Any] | None) -> Any:
    if state is None:
        return None
    return {**state, "state": {str(index): values for index, values in state["state"].items()}}


def _unkeyed(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "state": {int(index): values for index, values in state["state"].items()}}


@pytest.mark.parametrize("optimizer", [ADAMW, FUSED, SGD, ADAFACTOR], ids=["adamw", "fused", "sgd", "adafactor"])
def test_state_of_one_process_continues_with_two_and_back(optimizer: dict[str, Any]) -> None:
    plain, state, _ = _plain(optimizer, range(2))
    after, _, _ = _plain(optimizer, range(4))

    def work(world: DistributedContext) -> Any:
        model = Parts()
        model.load_state_dict(plain.state_dict())
        part = ShardedOptimizer(dict(model.named_parameters()), optimizer, world)
        part.load_state_dict(state)
        _train(part, model, range(2, 3), range(world.rank, world.rank + 1))
        return _weights(model), _lists(part.state_dict())

    (weights, between), _ = run_in_processes(work)
    model = Parts()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.tensor(weights[name]).view(parameter.shape))
    part = ShardedOptimizer(dict(model.named_parameters()), optimizer, ONE)
    part.load_state_dict(_tensors(between))
    _train(part, model, range(3, 4), range(2))
    _assert_close(_weights(model), _weights(after))


@pytest.mark.parametrize("shard", [True, False])
def test_gradients_are_those_of_the_union_of_the_data(shard: bool) -> None:
    def work(world: DistributedContext) -> Any:
        model = Parts()
        part = ShardedOptimizer(dict(model.named_parameters()), ADAMW, world, shard=shard)
        # Nothing on rank 1: it had no image in its batch.
        if world.rank == 0:
            _accumulate(model, 0, range(2))
        norm = part.reduce(1 / 8, None).item()
        owned = {
            f"{index}": [piece_start, gradient]
            for index, piece_start, gradient in (
                [(p.index, p.start, t.grad) for p, t in zip(part._pieces, part._trained, strict=False)]
                if shard
                else [(index, 0, parameter.grad) for index, parameter in enumerate(part._list)]
            )
        }
        return norm, _lists(owned), len(part.optimizer.param_groups[0]["params"])

    model = Parts()
    _accumulate(model, 0, range(2))
    gradients = [None if p.grad is None else p.grad.flatten() / 8 for p in model.parameters()]
    norm = torch.cat([gradient for gradient in gradients if gradient is not None]).norm().item()
    seen = [torch.full((p.numel(),), float("nan")) for p in model.parameters()]
    for found_norm, owned, _ in run_in_processes(work):
        assert found_norm == pytest.approx(norm, rel=1e-6)
        for index, (start, gradient) in owned.items():
            if gradient is None:
                assert gradients[int(index)] is None
            else:
                values = torch.tensor(gradient[2]).flatten()
                seen[int(index)][start : start + len(values)] = values
    for found, expected in zip(seen, gradients, strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_each_process_holds_the_optimizer_state_of_its_shard_only() -> None:
    def work(world: DistributedContext) -> Any:
        model = Parts()
        part = ShardedOptimizer(dict(model.named_parameters()), ADAMW, world)
        _train(part, model, range(1), range(2))
        return [
            sum(state["exp_avg"].numel() for state in part.optimizer.state.values()),
            [[p.index, p.start, p.stop] for p in part._pieces],
        ]

    # In units of 64 elements the five begin at 0, 1, 2, 11 and 12; half of all 13 is 7, inside the wide one.
    assert run_in_processes(work) == [
        [328, [[0, 0, 1], [1, 0, 7], [2, 0, 320]]],
        [240, [[2, 320, 553], [3, 0, 7], [4, 0, 3]]],
    ]


def test_more_processes_than_there_is_to_share() -> None:
    def work(world: DistributedContext) -> Any:
        parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
        part = ShardedOptimizer({"bias": parameter}, {**SGD, "weight_decay": 0.0}, world)
        for _ in range(2):
            (parameter * (world.rank + 1)).sum().backward()
            part.reduce(1 / 6, None)
            part.step()
            part.zero_grad()
        state = part.state_dict()
        part.load_state_dict(
            state or {"state": {}, "param_groups": [{**SGD, **part.optimizer.defaults, "params": [0]}]}
        )
        return parameter.tolist(), _lists(state and state["state"])

    results = run_in_processes(work, size=3)
    # gradient (1 + 2 + 3) / 6 = 1; lr 0.02: the steps are 1 and 1.9 of it
    for values, _ in results:
        assert values == pytest.approx([1 - 0.058, 2 - 0.058])
    assert results[0][1][0]["momentum_buffer"][2] == pytest.approx([1.9, 1.9])


def test_step_in_which_nothing_that_trains_took_part_changes_nothing() -> None:
    def work(world: DistributedContext) -> Any:
        model = Parts()
        part = ShardedOptimizer(dict(model.named_parameters()), ADAMW, world)
        _train(part, model, range(1), range(2))
        before = _weights(model)
        norm = part.reduce(1 / 8, 0.5).item()
        part.step()
        part.zero_grad()
        return norm, _weights(model) == before

    assert work(ONE) == (0.0, True)
    assert run_in_processes(work) == [(0.0, True), (0.0, True)]


def test_gradient_that_is_not_finite_anywhere_is_seen_everywhere() -> None:
    def work(world: DistributedContext) -> Any:
        model = Parts()
        before = _weights(model)
        part = ShardedOptimizer(dict(model.named_parameters()), ADAMW, world)
        model.loss(_inputs(0, world.rank) * (float("nan") if world.rank == 1 else 1.0), True).backward()
        norm = part.reduce(1 / 8, 0.5)
        part.zero_grad()
        part.reduce(1 / 8, 0.5)
        part.step()
        part.zero_grad()
        return bool(norm.isnan()), _weights(model) == before

    assert run_in_processes(work) == [(True, True), (True, True)]


def test_replaced_gradient_is_no_silent_loss() -> None:
    def work(world: DistributedContext) -> Any:
        model = Parts()
        part = ShardedOptimizer(dict(model.named_parameters()), ADAMW, world)
        model.zero_grad()
        _accumulate(model, 0, range(2))
        with pytest.raises(RuntimeError, match=r"the gradient of scale was replaced: use ShardedOptimizer\.zero_grad"):
            part.reduce(1 / 8, None)

    run_in_processes(work)


def test_low_precision_weights_are_refused() -> None:
    def work(world: DistributedContext) -> Any:
        with pytest.raises(ValueError, match="what trains must have fp32 weights"):
            ShardedOptimizer({"bias": nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))}, ADAMW, world)

    run_in_processes(work)


def test_state_of_something_else_is_refused_in_one_line() -> None:
    model = Parts()
    part = ShardedOptimizer(dict(model.named_parameters()), ADAMW, ONE)
    state = part.state_dict()
    few = {"state": {}, "param_groups": [{**state["param_groups"][0], "params": [0, 1]}]}
    with pytest.raises(UserError, match=r"its optimizer state is of 2 parameters, but 5 train here: resume with"):
        part.load_state_dict(few)
    other = ShardedOptimizer(dict(model.named_parameters()), SGD, ONE)
    with pytest.raises(UserError, match=r"not of a SGD \(it lacks dampening\): resume with the same optimizer"):
        other.load_state_dict(state)


def test_wrong_optimizer_is_reported_with_its_key() -> None:
    parameters = dict(Parts().named_parameters())
    with pytest.raises(UserError, match=r"optimizer: Invalid learning rate"):
        ShardedOptimizer(parameters, {**ADAMW, "lr": -1.0}, ONE)
    with pytest.raises(UserError, match=r"optimizer\._component_=torch\.optim\.AdamX"):
        ShardedOptimizer(parameters, {"_component_": "torch.optim.AdamX"}, ONE)


OWN = {"bias": {"lr": 0.5}, "wide": {"weight_decay": 0.0}, "head": {"lr": 0.5}}


@pytest.mark.parametrize("optimizer", [ADAMW, SGD, ADAFACTOR], ids=["adamw", "sgd", "adafactor"])
def test_parameters_with_arguments_of_their_own_learn_alike_on_one_process_and_on_two(
    optimizer: dict[str, Any],
) -> None:
    def make(world: DistributedContext) -> tuple[Parts, ShardedOptimizer]:
        model = Parts()
        part = ShardedOptimizer(dict(model.named_parameters()), optimizer, world, options=OWN)
        part.synchronise()
        return model, part

    def work(world: DistributedContext) -> Any:
        model, part = make(world)
        ranks = range(world.rank, world.rank + 1)
        norms = _train(part, model, range(2), ranks)
        saved = _tensors(world.gather(_lists(part.state_dict()))[0])
        saved["state"] = {int(index): state for index, state in saved["state"].items()}  # after their way as JSON
        resumed, again = make(world)
        resumed.load_state_dict(model.state_dict())
        assert again.load_state_dict(saved) == []
        norms += _train(again, resumed, range(2, 3), ranks)
        return norms, _weights(resumed), _lists(again.state_dict())

    model, part = make(ONE)
    groups = part.optimizer.param_groups
    assert [len(group["params"]) for group in groups] == [2, 2, 1]
    assert [group["lr"] for group in groups] == [optimizer["lr"], 0.5, optimizer["lr"]]
    norms = _train(part, model, range(3), range(2))
    (found, weights, state), _ = run_in_processes(work)
    assert found == pytest.approx(norms, rel=1e-5)
    _assert_close(weights, _weights(model), 1e-5)
    expected = _lists(part.state_dict())
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2, 3], [4]]
    _assert_close(state["state"], expected["state"], 1e-5)
