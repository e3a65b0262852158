"""Which attention kernel our calls take, how long they take, and what a new shape costs, with and without cuDNN.

    python benchmarks/attention_kernels.py         # on a GPU: heads of Llama 3.1 8B

cuDNN makes a plan for each new shape; medcap switches it off where it chooses a GPU. Written:
``results/benchmarks/attention_kernels.{json,md}``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from medcap.files import write_json, write_text
from medcap.modules.attention_mask import added_mask
from medcap.modules.fused_attention import causal_attention, masked_attention

REPEATS = 5


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the table goes")
    options = parser.parse_args()
    device = torch.device(options.device)
    small = device.type == "cpu"
    heads, kv_heads, width, length = (4, 2, 16, 64) if small else (32, 8, 128, 1024)
    rows = []
    for cudnn in (False,) if small else (False, True):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        # 64 more: cuDNN's backward pass with a mask has returned NaN there (pytorch/pytorch#196678).
        for name, call in _calls(device, heads, kv_heads, width).items():
            for tokens in (length, length + 64):
                rows.append({"call": name, "cudnn": cudnn, "tokens": tokens, **_measure(call, tokens, device)})
    report = {"machine": describe_machine(), "heads": [heads, kv_heads, width], "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "attention_kernels.json", report)
    write_text(options.out / "attention_kernels.md", table(report))
    print(table(report))


def _calls(
    device: torch.device, heads: int, kv_heads: int, width: int
) -> dict[str, Callable[[int], Callable[[], Any]]]:
    """Return the forms of attention in training, prefill and the tower, forward and backward."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16

    def tensors(tokens: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (
            torch.randn(2, count, tokens, width, device=device, dtype=dtype, requires_grad=True)
            for count in (heads, groups, groups)
        )
        return query, key, value

    def masked(tokens: int) -> Callable[[], Any]:
        own = tensors(tokens, kv_heads)
        mask = torch.ones(2, tokens, tokens, dtype=torch.bool, device=device).tril()
        added = added_mask(mask, dtype)[:, None]
        return lambda: _gradients(masked_attention(*own, added), own)

    def causal(tokens: int) -> Callable[[], Any]:
        own = tensors(tokens, kv_heads)
        return lambda: _gradients(causal_attention(*own), own)

    def whole(tokens: int) -> Callable[[], Any]:
        own = tensors(tokens, heads)
        return lambda: _gradients(torch.nn.functional.scaled_dot_product_attention(own[0], own[1], own[2]), own)

    return {"mask, grouped heads": masked, "causal, grouped heads": causal, "a tower's": whole}


def _gradients(attended: Tensor, own: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(attended.sum(), own)


def _measure(call: Callable[[int], Callable[[], Any]], tokens: int, device: torch.device) -> dict[str, Any]:
    run = call(tokens)
    first = _timed(run, device)
    found = run()
    seconds = statistics.median(_timed(run, device) for _ in range(REPEATS))
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as recorded:
        run()
        _wait(device)
    events = sorted(
        recorded.key_averages(), key=lambda event: -event.self_device_time_total - event.self_cpu_time_total
    )
    return {
        "first_ms": 1000 * first,
        "ms": 1000 * seconds,
        "finite": all(bool(torch.isfinite(one).all()) for one in found),
        "kernel": events[0].key[:80] if events else "",
    }


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(report: dict[str, Any]) -> str:
    """Return the report as markdown."""
    machine, (heads, kv_heads, width) = report["machine"], report["heads"]
    lines = [
        "# Attention kernels",
        "",
        f"{machine['processor']}, torch {machine['torch']}: two rows, {heads} heads over {kv_heads}, {width} wide,"
        " forward and backward. Made by `benchmarks/attention_kernels.py`.",
        "",
        "| call | cuDNN | tokens | first, ms | later, ms | finite | longest kernel |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for row in report["rows"]:
        cells = [row["call"], "on" if row["cudnn"] else "off", str(row["tokens"])]
        cells += [f"{row['first_ms']:.1f}", f"{row['ms']:.2f}", "yes" if row["finite"] else "**no**"]
        lines.append(f"| {' | '.join([*cells, row['kernel'].replace('|', '/')])} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
