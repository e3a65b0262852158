"""What trains: its weights, gradients and optimizer, on one process or divided over many."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn, optim

from medcap.errors import UserError
from medcap.instantiate import find_component
from medcap.training.distributed.context import DistributedContext
from medcap.training.distributed.optimizer_state import argument_names, as_plain, comparable, on_cpu, restored
from medcap.training.distributed.parameter_groups import group_parameters, numbered
from medcap.training.optimization import build_optimizer, scale_and_clip

# Each element's update depends on that element alone, so any part of a tensor can be updated separately.
ELEMENT_WISE = {
    optim.Adadelta,
    optim.Adagrad,
    optim.Adam,
    optim.Adamax,
    optim.AdamW,
    optim.ASGD,
    optim.NAdam,
    optim.RAdam,
    optim.RMSprop,
    optim.SGD,
}
# Optimizer state kept as one scalar per tensor; all other state has the tensor's shape.
_KEPT_ONCE = {"step", "eta", "mu", "mu_product"}
# In elements: kernels are fast on tensors that begin at a multiple of 256 bytes.
_ALIGNMENT = 64


@dataclass(frozen=True)
class _Piece:
    """The part of a parameter that is in this process's shard.

    Attributes:
        index: index of the parameter.
        start: first element of the part, within the parameter.
        stop: end of it.
        position: position of its first element within the flat buffers.
    """

    index: int
    start: int
    stop: int
    position: int


class ShardedOptimizer:
    """The trained parameters with their gradients and their optimizer.

    On one process it is the optimizer over the parameters and nothing else. On several, all gradients are in one flat
    buffer that is summed over the processes at once; a parameter without a gradient on any process is not updated, as
    one process would. If the optimizer works element by element, the weights are in a flat buffer too, and each process
    updates its shard of it and keeps the optimizer state of that shard only; otherwise every process makes the same
    full step.

    Args:
        parameters: name -> fp32 parameter. On several processes their ``data`` and ``grad`` become views of the flat
            buffers: do not replace these, only write into them.
        optimizer: ``_component_`` and arguments.
        world: the processes.
        shard: divide the optimizer state where that is possible.
        options: name -> arguments of the optimizer that this parameter has of its own, such as ``lr``; none for those
            that are not in it. Parameters with equal ones make a group.

    Attributes:
        parameters: parameters in the order given.
        optimizer: optimizer for the learning-rate schedule.
        sharded: whether the optimizer state is divided over the processes.
        why: a line that says so.

    Raises:
        UserError: if the optimizer refuses its arguments.
        ValueError: if a parameter is not fp32.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        optimizer: Mapping[str, Any],
        world: DistributedContext,
        shard: bool = True,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._groups = group_parameters(parameters, options or {})
        # Group after group, as torch numbers the parameters of an optimizer.
        self._list = [parameter for members, _ in self._groups for parameter in members]
        names = {parameter: name for name, parameter in parameters.items()}
        self.parameters = {names[parameter]: parameter for parameter in self._list}
        self._world = world
        component = find_component(optimizer["_component_"], "optimizer._component_")
        self.sharded = shard and world.size > 1 and component in ELEMENT_WISE
        self.why = self._explain(shard, optimizer["_component_"])
        self._pieces: list[_Piece] = []
        trained = self._list
        if world.size > 1 and self._list:
            self._flatten_gradients()
            if self.sharded:
                trained = self._flatten_weights()
        self.optimizer = build_optimizer(optimizer, self._grouped(trained))
        self._settings = argument_names(component, self.optimizer)
        self._resumed = False
        self._trained: list[nn.Parameter] = trained

    def synchronise(self) -> None:
        """Give every process the weights of rank 0."""
        if self.sharded:
            dist.broadcast(self._weights, 0)
        elif self._world.size > 1:
            for parameter in self._list:
                dist.broadcast(parameter.data, 0)

    @torch.no_grad()
    def reduce(self, scale: float, max_norm: float | None) -> Tensor:
        """Add up the gradients of all processes, multiply them by a number, and clip them.

        Args:
            scale: the number, the same on every process.
            max_norm: largest gradient norm, None for no clipping.

        Returns:
            The norm before clipping over all parameters, a scalar, the same bits on every process.
        """
        if self._world.size == 1:
            return scale_and_clip(self._list, scale, max_norm)
        self._check_views()
        met = torch.tensor(self._world.sum(self._met)).bool().tolist()
        if not self.sharded:
            dist.all_reduce(self._gradients)
            for parameter, has_gradient in zip(self._list, met, strict=True):
                parameter.grad = parameter.grad if has_gradient else None
            return scale_and_clip(self._list, scale, max_norm)

        self._sum_into_shards()
        for piece, parameter in zip(self._pieces, self._trained, strict=False):
            position = slice(piece.position, piece.position + piece.stop - piece.start)
            parameter.grad = self._gradients[position] if met[piece.index] else None
        norm = self._norm_over_shards(scale_and_clip(self._trained, scale, None))
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(self._trained, max_norm, norm)
        return norm

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights by the reduced gradients, the same on every process.

        Raises:
            UserError: if settings that changed since the checkpoint need what the optimizer did not keep then.
        """
        try:
            self.optimizer.step()
        except KeyError as error:
            if not self._resumed:
                raise
            raise UserError(
                f"resume_from_checkpoint: its optimizer state lacks {error.args[0]}, which the optimizer's settings now"
                " need: resume with those of the checkpoint, or start a new run with vision_checkpoint=FOLDER"
            ) from error
        if self.sharded:
            self._share_shards()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        if self._world.size == 1:
            self.optimizer.zero_grad(set_to_none=True)
            return
        self._gradients.zero_()
        for parameter, view in zip(self._list, self._gradient_views, strict=True):
            parameter.grad = view
        self._met[:] = [0] * len(self._met)

    def state_dict(self) -> dict[str, Any] | None:
        """Return the optimizer's state as if one process had it all; every process must call it.

        Returns:
            On the main process what ``torch.optim.Optimizer.state_dict`` of an optimizer over the parameters returns;
            None on the others. Its tensors may be those that the next step changes: copy them before.
        """
        if not self.sharded:
            return self.optimizer.state_dict() if self._world.is_main else None
        mine: dict[int, dict[str, Any]] = {}
        for piece, parameter in zip(self._pieces, self._trained, strict=False):
            if parameter in self.optimizer.state:
                mine[piece.index] = self.optimizer.state[parameter]
        # [[index, {name: [whether it is a tensor, value]}]]: JSON keeps the bits of its numbers.
        once = [
            [index, {name: as_plain(state[name]) for name in state if name in _KEPT_ONCE}]
            for index, state in mine.items()
        ]
        divided = sorted({name for state in mine.values() for name in state if name not in _KEPT_ONCE})
        answers = self._world.gather([once, divided])

        states: dict[int, dict[str, Any]] = {}
        for answer, _ in answers:
            for index, values in answer:
                states[index] = {name: restored(*value) for name, value in values.items()}
        for name in sorted({name for _, names in answers for name in names}):
            flat = self._gather_divided(name)
            if flat is None:
                continue
            for index in states:
                parameter = self._list[index]
                position = slice(self._positions[index], self._positions[index] + parameter.numel())
                states[index][name] = flat[position].view(parameter.shape).clone()
        if not self._world.is_main:
            return None
        groups = numbered(self.optimizer.state_dict()["param_groups"], [len(members) for members, _ in self._groups])
        return {"state": dict(sorted(states.items())), "param_groups": on_cpu(groups)}

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Load a state that :meth:`state_dict` returned, on any number of processes.

        The settings stay those that the optimizer was built with: only what it has learnt comes from the state.

        Args:
            state: state dict, the same on every process; its tensors are on the CPU.

        Returns:
            The settings that were others before, each as ``name: before -> now``.

        Raises:
            UserError: if it is another optimizer's, or that of other parameters.
        """
        self._check_state(state)
        groups, changes = self._with_own_settings(state["param_groups"])
        self._resumed = True
        if not self.sharded:
            self.optimizer.load_state_dict({**state, "param_groups": groups})
            return changes
        mine: dict[int, dict[str, Any]] = {}
        for position, piece in enumerate(self._pieces):
            if piece.index in state["state"]:
                mine[position] = {
                    name: value if name in _KEPT_ONCE or value is None else value.view(-1)[piece.start : piece.stop]
                    for name, value in state["state"][piece.index].items()
                }
        groups = numbered(groups, [len(group["params"]) for group in self.optimizer.param_groups])
        self.optimizer.load_state_dict({"state": mine, "param_groups": groups})
        return changes

    def _with_own_settings(self, groups: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the groups of a state with this optimizer's settings in them, and what that changes."""
        merged, changes = [], []
        for saved, own in zip(groups, self.optimizer.param_groups, strict=True):
            # Entries that are not arguments, such as the step of a schedule-free optimizer, are learnt and not set.
            settings = {name: value for name, value in own.items() if name in self._settings}
            learnt = {name: value for name, value in saved.items() if name not in ("initial_lr", *self._settings)}
            merged.append({**own, **learnt, **settings, "params": saved["params"]})
            # A schedule changes lr and keeps the one that was set.
            before = {**saved, "lr": saved.get("initial_lr", saved.get("lr"))}
            changes += [
                f"{name}: {before[name]} -> {value}"
                for name, value in settings.items()
                if name in before and comparable(before[name]) != comparable(value)
            ]
        return merged, changes

    def _grouped(self, trained: list[nn.Parameter]) -> list[dict[str, Any]]:
        """Return the optimizer's groups of what this process updates: ``trained`` lies in the order of the list."""
        if not self._pieces:
            sizes = [len(members) for members, _ in self._groups]
        else:
            starts = [0, *itertools.accumulate(len(members) for members, _ in self._groups)]
            indices = [piece.index for piece in self._pieces]
            sizes = [
                bisect_left(indices, end) - bisect_left(indices, start) for start, end in itertools.pairwise(starts)
            ]
        if sum(sizes) != len(trained):  # a shard of padding alone
            sizes = [len(trained), *[0] * (len(sizes) - 1)]
        parts = iter(trained)
        return [
            {"params": list(itertools.islice(parts, size)), **own}
            for size, (_, own) in zip(sizes, self._groups, strict=True)
        ]

    def _explain(self, shard: bool, component: str) -> str:
        size = self._world.size
        if size == 1:
            return "optimizer state on the one process"
        if self.sharded:
            return f"optimizer state sharded over {size} processes"
        if not shard:
            return f"optimizer state kept whole on each of {size} processes"
        name = component.rpartition(".")[2]
        return f"optimizer state kept whole on each of {size} processes: {name} does not work element by element"

    def _flatten_gradients(self) -> None:
        if {parameter.dtype for parameter in self._list} != {torch.float32}:
            raise ValueError("what trains must have fp32 weights")
        self._positions: list[int] = []
        end = 0
        for parameter in self._list:
            self._positions.append(end)
            end += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        unit = _ALIGNMENT * self._world.size
        self._shard_size = -(-end // unit) * unit // self._world.size
        self._gradients = torch.zeros(self._shard_size * self._world.size, device=self._list[0].device)
        self._gradient_views = self._views(self._gradients)
        # Which parameters got a gradient since the last step: a view of zeros does not show it.
        self._met = [0] * len(self._list)
        for index, parameter in enumerate(self._list):
            parameter.register_post_accumulate_grad_hook(lambda _, index=index: self._met.__setitem__(index, 1))
        self.zero_grad()

    def _flatten_weights(self) -> list[nn.Parameter]:
        self._weights = torch.zeros_like(self._gradients)
        for parameter, view in zip(self._list, self._views(self._weights), strict=True):
            parameter.data = view.copy_(parameter.data)
        first = self._world.rank * self._shard_size
        last = first + self._shard_size
        for index, (parameter, position) in enumerate(zip(self._list, self._positions, strict=True)):
            start, stop = max(first - position, 0), min(last - position, parameter.numel())
            if start < stop:
                self._pieces.append(_Piece(index, start, stop, position + start))
        parts = [self._weights[piece.position : piece.position + piece.stop - piece.start] for piece in self._pieces]
        # A shard may hold padding only: no optimizer takes an empty list.
        return [nn.Parameter(part) for part in parts or [self._shard_of(self._weights)]]

    def _views(self, flat: Tensor) -> list[Tensor]:
        return [
            flat[position : position + parameter.numel()].view(parameter.shape)
            for parameter, position in zip(self._list, self._positions, strict=True)
        ]

    def _shard_of(self, flat: Tensor, rank: int | None = None) -> Tensor:
        return flat[(self._world.rank if rank is None else rank) * self._shard_size :][: self._shard_size]

    def _sum_into_shards(self) -> None:
        """Leave the sum of all processes' gradients in this process's shard; what the others then hold is undefined."""
        if self._gradients.is_cuda:
            dist.reduce_scatter_tensor(self._shard_of(self._gradients), self._gradients)
        else:
            # On the CPU gloo's reduce-scatter takes twice the time of its all-reduce (make bench-optimizer).
            dist.all_reduce(self._gradients)

    def _share_shards(self) -> None:
        """Give every process the weights of all shards."""
        if self._weights.is_cuda:
            dist.all_gather_into_tensor(self._weights, self._shard_of(self._weights))
            return
        # Four times as fast as gloo's all-gather.
        ranks = range(self._world.size)
        sent = [dist.broadcast(self._shard_of(self._weights, rank), rank, async_op=True) for rank in ranks]
        for work in filter(None, sent):
            work.wait()

    def _check_views(self) -> None:
        # [Contract] a gradient outside the buffer would be left out of the sum, and the processes would diverge.
        for name, view in zip(self.parameters, self._gradient_views, strict=True):
            gradient = self.parameters[name].grad
            if gradient is None or gradient.data_ptr() != view.data_ptr():
                raise RuntimeError(f"the gradient of {name} was replaced: use ShardedOptimizer.zero_grad")

    def _norm_over_shards(self, norm: Tensor) -> Tensor:
        norms = torch.empty(self._world.size, dtype=torch.float64, device=self._gradients.device)
        dist.all_gather_into_tensor(norms, norm.to(norms).view(1))
        return torch.linalg.vector_norm(norms).float()

    def _gather_divided(self, name: str) -> Tensor | None:
        shard = torch.zeros(self._shard_size, device=self._gradients.device)
        first = self._world.rank * self._shard_size
        for piece, parameter in zip(self._pieces, self._trained, strict=False):
            value = self.optimizer.state.get(parameter, {}).get(name)
            if value is not None:
                shard[piece.position - first :][: len(value)] = value
        shards = [torch.empty_like(shard) for _ in range(self._world.size)] if self._world.is_main else None
        dist.gather(shard, shards, dst=0)
        return None if shards is None else torch.cat([shard.cpu() for shard in shards])

    def _check_state(self, state: Mapping[str, Any]) -> None:
        groups = state["param_groups"]
        found, own = [len(group["params"]) for group in groups], [len(members) for members, _ in self._groups]
        if sum(found) != len(self._list):
            raise UserError(
                f"resume_from_checkpoint: its optimizer state is of {sum(found)} parameters, but"
                f" {len(self._list)} train here: resume with the same vision, projector and trainable"
            )
        if found != own:
            raise UserError(
                f"resume_from_checkpoint: its optimizer has groups of {found} parameters, but here they are {own}:"
                " resume with the same options under trainable"
            )
        absent = sorted(set(self.optimizer.defaults) - set(groups[0]))
        if absent:
            raise UserError(
                f"resume_from_checkpoint: its optimizer state is not of a {type(self.optimizer).__name__} (it lacks"
                f" {absent[0]}): resume with the same optimizer"
            )
