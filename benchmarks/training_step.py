"""How long a training step takes: ours, the same written plainly, and transformers, in one process and in turn.

    make bench-training                      # preset small: two processor cores, minutes
    PYTHONPATH=tests python benchmarks/training_step.py --preset llama3_1_8b --dtype bf16    # a GPU of 80 GB

All sides begin with the same weights and see the same samples; their losses and gradient norms are compared first. A
step is forward, backward, clipping and AdamW over the same samples: a padded side needs several batches where one image
has several questions. Making batches is left out; data loader workers do it. Written:
``results/benchmarks/training_step_PRESET.{json,md}``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from flop_count import FlopCount
from machine import describe_machine
from training_sides import SIDES, Side, make_sides, random_images
from training_workloads import PRESETS, WORKLOADS, Example, Preset

from medcap.files import write_text

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Measure, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of the frozen language model (fp32)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5, help="steps that are measured on each side, in turn (5)")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--compile", action="store_true", help="compile our decoder layers")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the tables go")
    parser.add_argument("--memory-of", choices=SIDES, help="only make two steps of one side and print the peak memory")
    options = parser.parse_args()
    preset, device, dtype = PRESETS[options.preset], torch.device(options.device), DTYPES[options.dtype]
    if options.memory_of:
        print(json.dumps(_peak_memory(preset, device, dtype, options.memory_of, options.workloads[0])))
        return
    report = measure(preset, device, dtype, options)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"training_step_{options.preset}"
    write_text(path.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    write_text(path.with_suffix(".md"), _table(report))
    print(_table(report))


def measure(preset: Preset, device: torch.device, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Any]:
    """Time all sides on all workloads.

    Args:
        preset: the model's shapes.
        device: where.
        dtype: of the frozen language model.
        options: ``workloads``, ``sides``, ``repeats``, ``compile``.

    Returns:
        Seconds, operations, peak memory and ratios.
    """
    torch.manual_seed(0)
    sides = make_sides(preset, device, dtype, options.sides)
    if options.compile and "ours" in sides:
        sides["ours"].model.compile_layers()
    report = {
        "machine": describe_machine(),
        "preset": options.preset,
        "dtype": options.dtype,
        "device": device.type,
        "compile": options.compile,
        "workloads": {},
    }
    for name in options.workloads:
        report["workloads"][name] = _workload(name, sides, preset, device, options)
        print(f"{name}: {json.dumps(report['workloads'][name]['ratios'])}", file=sys.stderr)
    return report


def _workload(
    name: str, sides: dict[str, Side], preset: Preset, device: torch.device, options: argparse.Namespace
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    ceilings: list[float] = []
    flops: dict[str, list[int]] = {side: [] for side in sides}
    memory: dict[str, int] = {}
    samples, tokens = 0, 0
    counts: dict[str, int] = {}
    seen: list[Example] = []
    for repeat in range(options.repeats):
        examples = WORKLOADS[name](preset, repeat)
        num_labels = sum(len(example.answer) + 1 for example in examples)
        images = random_images(preset)
        prepared = {side: one.prepare(examples, images) for side, one in sides.items()}
        if examples != seen:  # else they are counted already; it warms up, too
            counts = _compare_and_count(sides, prepared, num_labels)
            seen = examples
        ceilings.append(_ceiling(preset, device, sides))
        for side, one in sides.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds[side].append(_timed_step(one, prepared[side], num_labels, device))
            flops[side].append(counts[side])
            if device.type == "cuda":
                memory[side] = max(memory.get(side, 0), torch.cuda.max_memory_allocated())
        samples += len(examples)
        tokens += _useful_tokens(examples, preset)
    if device.type == "cpu":
        memory = {side: _memory_in_a_process(side, name, options) for side in sides}
    return {
        "samples": samples,
        "tokens": tokens,
        "seconds": seconds,
        "flops": flops,
        "ceiling_flops_per_second": ceilings,
        "peak_memory_bytes": memory,
        "ratios": {side: _ratios(side, seconds, flops, memory) for side in sides if side != "ours" and "ours" in sides},
    }


def _compare_and_count(sides: dict[str, Side], prepared: dict[str, Any], num_labels: int) -> dict[str, int]:
    """Operations of each side's step; all compute the same loss and gradient norm, or it ends here."""
    found, counts = {}, {}
    for side, one in sides.items():
        with FlopCount() as count:
            loss = one.backward(prepared[side], num_labels).item()
        norm = torch.nn.utils.get_total_norm([p.grad for p in one.trained if p.grad is not None]).item()
        one.optimizer.zero_grad(set_to_none=True)
        found[side], counts[side] = (loss, norm), count.total
    tolerance = 1e-3 if next(iter(sides.values())).dtype == torch.float32 else 5e-2
    first = next(iter(found.values()))
    for side, values in found.items():
        for expected, value in zip(first, values, strict=True):
            if abs(expected - value) > tolerance * abs(expected):
                raise SystemExit(f"loss and gradient norm of {side} are {values}, those of {next(iter(found))} {first}")
    return counts


def _timed_step(side: Side, prepared: Any, num_labels: int, device: torch.device) -> float:
    _synchronise(device)
    started = time.perf_counter()
    side.step(prepared, num_labels)
    _synchronise(device)
    return time.perf_counter() - started


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _useful_tokens(examples: list[Example], preset: Preset) -> int:
    """Tokens of the samples as they are given: with an image each, without padding."""
    return sum(len(example.tokens(preset.image_tokens)[0]) for example in examples)


def _ratios(
    side: str, seconds: dict[str, list[float]], flops: dict[str, list[int]], memory: dict[str, int]
) -> dict[str, float]:
    values = [theirs / ours for theirs, ours in zip(seconds[side], seconds["ours"], strict=True)]
    counted = sum(flops[side]) / sum(flops["ours"])
    return {
        "time": round(statistics.median(values), 3),
        "time_lowest": round(min(values), 3),
        "time_highest": round(max(values), 3),
        "counted": round(counted, 3),
        "realised": round(statistics.median(values) / counted, 3),
        "memory": round(memory["ours"] / memory[side], 3),
    }


def _ceiling(preset: Preset, device: torch.device, sides: dict[str, Side]) -> float:
    """Operations a second of the language model's largest product of a layer: best of several."""
    dtype = next(iter(sides.values())).dtype
    tokens = 2048 if device.type == "cpu" else 8192
    left = torch.randn(tokens, preset.dim, device=device, dtype=dtype)
    right = torch.randn(preset.dim, preset.intermediate_dim, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(20):
        _synchronise(device)
        started = time.perf_counter()
        torch.mm(left, right)
        _synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * tokens * preset.dim * preset.intermediate_dim / best


def _memory_in_a_process(side: str, workload: str, options: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--preset", options.preset, "--dtype", options.dtype]
    command += ["--device", "cpu", "--memory-of", side, "--workloads", workload]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["peak"]


def _peak_memory(preset: Preset, device: torch.device, dtype: torch.dtype, side: str, workload: str) -> dict[str, int]:
    (one,) = make_sides(preset, device, dtype, [side]).values()
    for seed in range(2):
        examples = WORKLOADS[workload](preset, seed)
        images = random_images(preset)
        one.step(one.prepare(examples, images), sum(len(example.answer) + 1 for example in examples))
    # Not getrusage: what that says of a process begins with the memory of the one that started it.
    status = Path("/proc/self/status").read_text()
    return {"peak": int(status.split("VmHWM:")[1].split()[0]) * 1024}


def _table(report: dict[str, Any]) -> str:
    machine, preset = report["machine"], PRESETS[report["preset"]]
    unit = "GB allocated" if report["device"] == "cuda" else "GB resident"
    compiled = "; our decoder layers compiled" if report["compile"] else ""
    lines = [
        f"# Training step, preset {report['preset']}",
        "",
        f"Frozen Llama of {preset.layers} layers of width {preset.dim}, vocabulary {preset.vocab_size:,}, in"
        f" {report['dtype']}; a CLIP tower of {preset.tower_layers} layers of width {preset.tower_dim} and a projector"
        f" train; {preset.image_tokens} image tokens; padded batches of {preset.batch_size}{compiled}.",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']},"
        f" transformers {machine['transformers']}, Python {machine['python']}.",
        "Made by `benchmarks/training_step.py`. All sides had the same loss and gradient norm.",
        "",
    ]
    for name, found in report["workloads"].items():
        repeats = len(next(iter(found["seconds"].values())))
        ceilings = found["ceiling_flops_per_second"]
        lines += [
            f"## {name}: {found['samples'] // repeats} samples a step, {repeats} steps",
            "",
            f"| side | samples/s | tokens/s | seconds a step | lowest to highest | GFLOP | of the ceiling | {unit} |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for side, seconds in found["seconds"].items():
            median = statistics.median(seconds)
            flops = statistics.mean(found["flops"][side])
            shares = [
                count / time / ceiling
                for count, time, ceiling in zip(found["flops"][side], seconds, ceilings, strict=True)
            ]
            lines.append(
                f"| {side} | {found['samples'] / repeats / median:.2f} | {found['tokens'] / repeats / median:,.0f} |"
                f" {median:.3g} | {min(seconds):.3g} to {max(seconds):.3g} | {flops / 1e9:,.0f} |"
                f" {statistics.median(shares):.0%} | {found['peak_memory_bytes'][side] / 1e9:.2f} |"
            )
        lines += [
            "",
            "| ours against | times faster | lowest to highest | counted | realised | memory |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for side, ratio in found["ratios"].items():
            lines.append(
                f"| {side} | {ratio['time']:.2f} | {ratio['time_lowest']:.2f} to {ratio['time_highest']:.2f} |"
                f" {ratio['counted']:.2f} | {ratio['realised']:.0%} | {ratio['memory']:.2f} |"
            )
        lines.append("")
    lines += [
        "times faster: median over the steps of their time over ours for the same samples. counted: their"
        " floating-point operations over ours, matrix products and attention, forward and backward, as torch"
        " dispatches them. realised: the first over the second. of the ceiling: a side's operations a second over the"
        " best rate that the largest product of a layer reached just before, in the same dtype; the count has 4"
        " operations for a frozen weight and token, so this is the share of the frozen model's floor. tokens/s: tokens"
        " of the samples as given, an image for each, without padding, whatever a side computes of them. memory: our"
        " peak over theirs (on a CPU, resident memory of a process of its own, libraries included).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
