"""What dividing the optimizer state over processes costs and saves: medcap's way beside torch's own.

    make bench-optimizer

Two processes exchange over gloo on the CPU. Each trains linear maps with as many weights as a ViT-B/16 and a projector,
on one token, so that a step is hardly more than the exchange of gradients, their clipping and AdamW; in turn.
Written: ``results/benchmarks/optimizer_sharding.json`` and ``optimizer_sharding.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from machine import describe_machine
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from helpers.processes import run_in_processes
from medcap.training.distributed.context import DistributedContext
from medcap.training.distributed.sharded_optimizer import ShardedOptimizer

SETTINGS = {"lr": 1e-4, "weight_decay": 0.1, "foreach": True}
MAX_NORM = 1.0
OURS, WHOLE, ZERO, FSDP = (
    "medcap, state divided",
    "medcap, state whole",
    "`ZeroRedundancyOptimizer`",
    "FSDP2 over what trains",
)
Step = Callable[[], Tensor]


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the table goes")
    parser.add_argument("--repeats", type=int, default=15, help="steps of each way, in turn (15)")
    parser.add_argument("--width", type=int, default=768, help="width of the maps (768: ViT-B)")
    parser.add_argument("--layers", type=int, default=12, help="layers of 12 x width^2 weights (12)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = run_in_processes(measure, options.width, options.layers, options.repeats, timeout=1800)
    report = {"machine": describe_machine(), "options": vars(options) | {"out": None}, "ways": measured[0]}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "optimizer_sharding.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (options.out / "optimizer_sharding.md").write_text(_table(report), encoding="utf-8")
    print(_table(report))


def measure(world: DistributedContext, width: int, layers: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Take steps in every way, in turn.

    Returns:
        Name of the way -> seconds of its steps, bytes that one process keeps, and the gradient's norm at the last step.
    """
    torch.set_num_threads(1)
    makers = {OURS: _ours(True), WHOLE: _ours(False), ZERO: _zero, FSDP: _fsdp}
    ways = {name: make(world, _maps(width, layers)) for name, make in makers.items()}
    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in ways}
    for repeat in range(repeats + 1):
        for name, (step, bytes_kept) in ways.items():
            dist.barrier()
            started = time.perf_counter()
            norm = step()
            dist.barrier()
            if repeat:
                found[name]["seconds"].append(time.perf_counter() - started)
            found[name] |= {"norm": float(norm), "bytes": bytes_kept()}
    norms = [way["norm"] for way in found.values()]
    assert max(norms) - min(norms) < 1e-4 * max(norms), f"the ways did not train alike: {norms}"
    return found


def _maps(width: int, layers: int) -> nn.Sequential:
    torch.manual_seed(0)
    widths = [(width, 3 * width), (3 * width, width), (width, 3 * width), (3 * width, width)]  # 12 width^2 weights
    return nn.Sequential(*[nn.Sequential(*[nn.Linear(*pair) for pair in widths]) for _ in range(layers)])


def _loss(model: nn.Module, rank: int) -> Tensor:
    width = next(model.parameters()).shape[1]
    return model(torch.full((1, width), 1.0 + rank)).square().sum()


def _ours(shard: bool) -> Callable[[DistributedContext, nn.Sequential], tuple[Step, Callable[[], dict[str, int]]]]:
    def make(world: DistributedContext, model: nn.Sequential) -> tuple[Step, Callable[[], dict[str, int]]]:
        settings = {"_component_": "torch.optim.AdamW", **SETTINGS}
        optimizer = ShardedOptimizer(dict(model.named_parameters()), settings, world, shard)

        def step() -> Tensor:
            optimizer.zero_grad()
            _loss(model, world.rank).backward()
            norm = optimizer.reduce(1 / world.size, MAX_NORM)
            optimizer.step()
            return norm

        return step, lambda: _bytes(model, optimizer.optimizer)

    return make


def _zero(world: DistributedContext, model: nn.Sequential) -> tuple[Step, Callable[[], dict[str, int]]]:
    replica = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=AdamW, parameters_as_bucket_view=True, **SETTINGS
    )

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=False)
        _loss(replica, world.rank).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return norm

    return step, lambda: _bytes(model, optimizer.optim)


def _fsdp(world: DistributedContext, model: nn.Sequential) -> tuple[Step, Callable[[], dict[str, int]]]:
    mesh = dist.init_device_mesh("cpu", (world.size,))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = AdamW(model.parameters(), **SETTINGS)

    def step() -> Tensor:
        optimizer.zero_grad()
        _loss(model, world.rank).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    return step, lambda: _bytes(model, optimizer)


def _bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Count what this process keeps between steps."""
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return {
        "weights": sum(_local(parameter).nbytes for parameter in model.parameters()),
        "gradients": sum(
            _local(parameter.grad).nbytes for parameter in model.parameters() if parameter.grad is not None
        ),
        "state": sum(_local(value).nbytes for value in states),
    }


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _table(report: dict[str, Any]) -> str:
    machine, ways, options = report["machine"], report["ways"], report["options"]
    count = ways[WHOLE]["bytes"]["weights"] // 4
    lines = [
        "# Optimizer state, whole and divided",
        "",
        f"{count:,} fp32 weights in {options['layers']} layers of width {options['width']}, AdamW, gradients clipped;"
        f" two processes over gloo on the CPU, one thread each; {len(ways[OURS]['seconds'])} interleaved repeats.",
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}. Made by `make bench-optimizer`.",
        "",
        "| | seconds a step, median | lowest | highest | ratio to the first | state, MB a process | weights | gradients"
        " |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, way in ways.items():
        seconds, kept = way["seconds"], {part: size / 1e6 for part, size in way["bytes"].items()}
        ratio = statistics.median(theirs / ours for theirs, ours in zip(seconds, ways[OURS]["seconds"], strict=True))
        lines.append(
            f"| {name} | {statistics.median(seconds):.3f} | {min(seconds):.3f} | {max(seconds):.3f} | {ratio:.2f} |"
            f" {kept['state']:.0f} | {kept['weights']:.0f} | {kept['gradients']:.0f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
