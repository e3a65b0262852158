"""The configured optimizer and schedule; after a resume they are those that are asked for then, not those of before."""

import copy
import math

import pytest
import torch
from torch import nn

from medcap.errors import UserError
from medcap.training.distributed.context import single_world
from medcap.training.distributed.sharded_optimizer import ShardedOptimizer
from medcap.training.keys import TrainingConfiguration
from medcap.training.optimization import build_scheduler, check_optimization, learning_rate_notes

ONE = single_world(torch.device("cpu"))
COSINE = {"_component_": "torchtune.training.get_cosine_schedule_with_warmup", "num_warmup_steps": 2}
# Optimizer, settings of the first run, other settings of the second.
OPTIMIZERS = [
    ("torch.optim.AdamW", {"lr": 0.05, "weight_decay": 0.1}, {"lr": 0.01, "weight_decay": 0.5, "betas": [0.5, 0.6]}),
    ("torch.optim.AdamW", {"lr": 0.05, "fused": True}, {"lr": 0.01, "fused": True, "eps": 0.1}),
    ("torch.optim.Adam", {"lr": 0.05}, {"lr": 0.01, "weight_decay": 0.3, "eps": 0.1}),
    ("torch.optim.SGD", {"lr": 0.05, "momentum": 0.9}, {"lr": 0.01, "momentum": 0.5, "nesterov": True}),
    ("torch.optim.SGD", {"lr": 0.05}, {"lr": 0.01, "momentum": 0.9, "dampening": 0.1}),
    ("torch.optim.RMSprop", {"lr": 0.05}, {"lr": 0.01, "alpha": 0.5, "weight_decay": 0.2}),
    ("torch.optim.Adagrad", {"lr": 0.05}, {"lr": 0.01, "lr_decay": 0.5, "weight_decay": 0.2}),
    ("torch.optim.NAdam", {"lr": 0.05}, {"lr": 0.01, "momentum_decay": 0.1, "betas": [0.7, 0.8]}),
    ("torch.optim.Adafactor", {"lr": 0.05}, {"lr": 0.01, "weight_decay": 0.2, "beta2_decay": -0.5}),
    ("bitsandbytes.optim.AdamW", {"lr": 0.05}, {"lr": 0.01, "weight_decay": 0.2, "betas": [0.7, 0.8], "eps": 0.1}),
    ("bitsandbytes.optim.AdamW8bit", {"lr": 0.05}, {"lr": 0.01, "weight_decay": 0.2, "betas": [0.7, 0.8]}),
]
NAMES = [f"{name.rpartition('.')[2]}-{number}" for number, (name, _, _) in enumerate(OPTIMIZERS)]


def part_of(name, settings, seed=0):
    torch.manual_seed(seed)
    parameters = {"wide": nn.Parameter(torch.randn(64, 96)), "bias": nn.Parameter(torch.randn(7))}
    return ShardedOptimizer(parameters, {"_component_": name, **settings}, ONE)


def steps(part, numbers):
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for parameter in part.parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        part.step()
    return {name: parameter.detach().clone() for name, parameter in part.parameters.items()}


def resumed(name, settings, first, state):
    """Another process: the weights and the optimizer's state of the first one, and settings of its own."""
    part = part_of(name, settings, seed=1)
    with torch.no_grad():
        for key, parameter in part.parameters.items():
            parameter.copy_(first[key])
    return part, part.load_state_dict(state)


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("name", "before", "after"), OPTIMIZERS, ids=NAMES)
def test_equal_settings_continue_bit_for_bit(name, before, after):
    whole = steps(part_of(name, before), range(5))
    part = part_of(name, before)
    first, state = steps(part, range(3)), copy.deepcopy(part.state_dict())
    again, changes = resumed(name, before, first, state)
    assert changes == []
    assert same(steps(again, range(3, 5)), whole)


@pytest.mark.parametrize(("name", "before", "after"), OPTIMIZERS, ids=NAMES)
def test_other_settings_take_effect_from_the_first_step(name, before, after):
    part = part_of(name, before)
    first, state = steps(part, range(3)), copy.deepcopy(part.state_dict())
    # The reference: the first optimizer, whose settings are changed by hand.
    plain = part_of(name, after).optimizer.param_groups[0]
    for setting in set(after) | ({"t_alpha", "t_beta3"} & set(plain)):
        part.optimizer.param_groups[0][setting] = plain[setting]
    expected = steps(part, [3, 4])
    again, changes = resumed(name, after, first, state)
    group = again.optimizer.param_groups[0]
    for setting, value in after.items():
        assert list(group[setting]) == value if isinstance(value, list) else group[setting] == value
    assert sorted(change.partition(":")[0] for change in changes) == sorted(set(after) - {"fused"})
    assert f"lr: {before['lr']} -> {after['lr']}" in changes
    assert same(steps(again, [3, 4]), expected)


class StepCounting(torch.optim.SGD):
    """An optimizer that keeps a number of its own beside its settings, as schedule-free ones do."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        for group in self.param_groups:
            group["k"] = 0

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["k"] += 1


def test_what_an_optimizer_counts_in_its_groups_is_no_setting(monkeypatch):
    monkeypatch.setattr(torch.optim, "StepCounting", StepCounting, raising=False)
    part = part_of("torch.optim.StepCounting", {"lr": 0.05})
    first, state = steps(part, range(3)), copy.deepcopy(part.state_dict())
    again, changes = resumed("torch.optim.StepCounting", {"lr": 0.01}, first, state)
    assert (again.optimizer.param_groups[0]["k"], changes) == (3, ["lr: 0.05 -> 0.01"])


@pytest.mark.parametrize(
    ("name", "before", "after", "lacks"),
    [
        ("torch.optim.AdamW", {}, {"amsgrad": True}, "max_exp_avg_sq"),
        ("torch.optim.RMSprop", {}, {"momentum": 0.9}, "momentum_buffer"),
        ("torch.optim.RMSprop", {}, {"centered": True}, "grad_avg"),
    ],
)
def test_settings_that_need_what_was_not_kept_are_refused(name, before, after, lacks):
    part = part_of(name, before)
    first, state = steps(part, range(3)), copy.deepcopy(part.state_dict())
    again, _ = resumed(name, after, first, state)
    with pytest.raises(UserError, match=rf"^resume_from_checkpoint: its optimizer state lacks {lacks}, which"):
        steps(again, [3])


def learning_rates(node, num_steps, lr=0.4, made=0):
    """The learning rate of each step that is left."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = build_scheduler(node, optimizer, num_steps, made)
    found = []
    for _ in range(made, num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return found


def exponential(optimizer, num_training_steps, gamma=0.5):
    """A schedule that makes each value of the one before."""
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)


def two_parts(optimizer, num_training_steps):
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2)
    rest = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_training_steps - 2)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, rest], [2])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "node",
    [
        COSINE,
        None,
        {"_component_": "transformers.get_linear_schedule_with_warmup", "num_warmup_steps": 2},
        {"_component_": "torch.optim.exponential"},
        {"_component_": "torch.optim.two_parts"},
    ],
)
def test_a_schedule_continues_where_it_was(monkeypatch, node):
    monkeypatch.setattr(torch.optim, "exponential", exponential, raising=False)
    monkeypatch.setattr(torch.optim, "two_parts", two_parts, raising=False)
    whole = learning_rates(node, 8)
    for made in (0, 1, 5, 8):
        assert learning_rates(node, 8, made=made) == whole[made:]


def test_a_longer_run_with_another_learning_rate_has_the_schedule_of_such_a_run():
    found = learning_rates(COSINE, 10, lr=1e-5, made=6)
    assert found == pytest.approx([1e-5 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in (4, 5, 6, 7)])
    assert learning_rates(None, 10, lr=1e-5, made=6) == [1e-5] * 4


def config(**changes):
    given = {"optimizer": {"_component_": "torch.optim.AdamW", "lr": 0.1}, "lr_scheduler": COSINE}
    return TrainingConfiguration.model_construct(**given | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": {"_component_": "torch.optim.AdamW", "lr": 0.1, "betas": [0.9, 5]}}, "optimizer: Invalid beta"),
        ({"optimizer": {"_component_": "torch.optim.SGD", "lr": 0.1, "nesterov": True}}, "optimizer: Nesterov"),
        ({"lr_scheduler": {"_component_": "torch.optim.lr_scheduler.StepLR", "step_size": 2}}, "lr_scheduler: "),
        ({"lr_scheduler": {**COSINE, "last_epoch": 5}}, "lr_scheduler: "),
    ],
)
def test_what_refuses_its_arguments_is_reported_before_weights_are_read(changes, words):
    check_optimization(config(), torch.device("cpu"))
    with pytest.raises(UserError, match=f"^{words}") as error:
        check_optimization(config(**changes), torch.device("cpu"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("warmup", "lr", "words"),
    [
        (7, 0.1, []),
        (8, 0.1, ["lr_scheduler.num_warmup_steps=8 is not less than the run's 8 steps: the"]),
        (1_000_000, 0.1, ["lr_scheduler.num_warmup_steps=1000000 is not less than"]),
        (2, 0.0, ["optimizer.lr=0: nothing will change"]),
        (None, 0.1, []),
    ],
)
def test_settings_that_train_next_to_nothing_are_said(warmup, lr, words):
    schedule = None if warmup is None else {**COSINE, "num_warmup_steps": warmup}
    cfg = config(optimizer={"_component_": "torch.optim.AdamW", "lr": lr}, lr_scheduler=schedule)
    found = learning_rate_notes(cfg, 8)
    assert len(found) == len(words)
    for note, expected in zip(found, words, strict=True):
        assert expected in note


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"trainable": {"vision": {"weight_decay": 0.1}}}, "trainable.vision.weight_decay"),
        ({"weight_decay_of": "matrices"}, "weight_decay_of=matrices"),
    ],
)
def test_a_weight_decay_that_the_optimizer_does_not_have_is_refused(keys, where):
    cfg = TrainingConfiguration.model_construct(optimizer={"_component_": "torch.optim.Rprop", "lr": 0.1}, **keys)
    with pytest.raises(UserError) as error:
        check_optimization(cfg, torch.device("cpu"))
    assert str(error.value) == f"{where}: Rprop has no weight_decay; leave it out, or use torch.optim.AdamW"
