"""Split a step's time into matrix products, attention, elementwise work and copies, with torch's profiler."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# Names of kernels on a GPU, and of operators on the CPU; the first that fits decides. cuBLAS, cuBLASLt and CUTLASS
# name their products so; inductor's templates are called triton_tem_..., and those of attention have flex in it.
_KINDS = (
    ("attention", re.compile(r"flex|flash|fmha|attention|sdpa|softmax_warp|triton_tem_fused.*_(attend|sdp)", re.I)),
    ("copies", re.compile(r"memcpy|memset|^aten::(copy_|_to_copy|to|fill_|zero_)$", re.I)),
    (
        "products",
        re.compile(
            r"gemm|gemv|cutlass|cublas|nvjet|xmma|splitk|scaled_mm|triton_tem|conv|^aten::(b?mm|addmm|linear)$", re.I
        ),
    ),
)
KINDS: tuple[str, ...] = ("products", "attention", "elementwise", "copies")


def kind_of(name: str) -> str:
    """Return which of ``KINDS`` a kernel or operator is, by its name."""
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), "elementwise")


def split_time(run: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Run something once under the profiler, after a run that warms up.

    Args:
        run: what is measured.
        device: where it computes.

    Returns:
        Milliseconds of each of ``KINDS``, summed over kernels (on the CPU over operators, without what they call);
        ``wall``, of the whole run, under the profiler; and on a GPU ``idle``, the rest of it, and ``launches``.
    """
    run()
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as recorded:
        _synchronise(device)
        began = time.perf_counter()
        run()
        _synchronise(device)
        wall = 1000 * (time.perf_counter() - began)
    times = dict.fromkeys(KINDS, 0.0)
    launches = 0
    for event in recorded.key_averages():
        if cuda != (event.device_type == DeviceType.CUDA):
            continue
        times[kind_of(event.key)] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1000
        launches += event.count
    times["wall"] = wall
    # On several streams the sum can be more than the whole.
    return times | ({"idle": max(0.0, wall - sum(times[kind] for kind in KINDS)), "launches": launches} if cuda else {})


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def split_table(splits: dict[str, dict[str, float]]) -> list[str]:
    """Return a table row for each side.

    Args:
        splits: side -> what ``split_time`` returned.
    """
    columns = [*KINDS, *(name for name in ("idle", "wall", "launches") if any(name in row for row in splits.values()))]
    lines = [f"| ms a step | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for side, row in splits.items():
        cells = [f"{row[name]:,.0f}" if name == "launches" else f"{row[name]:,.1f}" for name in columns]
        lines.append(f"| {side} | {' | '.join(cells)} |")
    return lines
