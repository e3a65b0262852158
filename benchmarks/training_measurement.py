"""Measure training steps of several sides: seconds in turn, counted operations, peak memory, ratios, tables."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from flop_count import FlopCount
from full_rows import draw_examples
from training_sides import Side, random_images
from training_workloads import Example, Preset

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def measure_workload(
    name: str,
    sides: dict[str, Side],
    preset: Preset,
    device: torch.device,
    repeats: int,
    same: Sequence[str],
    memory_of: Callable[[str], int],
) -> dict[str, Any]:
    """Time all sides on one workload.

    Args:
        name: one of ``WORKLOADS``.
        sides: sides by name; their steps are measured one after another, over and over.
        preset: the model's shapes.
        device: where.
        repeats: steps that are measured on each side.
        same: sides that must have the same loss and gradient norm.
        memory_of: measures a side's peak memory where the device does not tell it.

    Returns:
        Seconds, operations and peak memory of each side, the rate that the processor reached beside them, and
        ``row_share``, how much of our packed rows is not padding.
    """
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    ceilings: list[float] = []
    flops: dict[str, list[int]] = {side: [] for side in sides}
    memory: dict[str, int] = {}
    samples, tokens = 0, 0
    filled: list[float] = []
    counts: dict[str, int] = {}
    seen: list[Example] = []
    for repeat in range(repeats):
        examples = draw_examples(name, preset, repeat)
        num_labels = sum(len(example.answer) + 1 for example in examples)
        images = random_images(preset, examples)
        prepared = {side: one.prepare(examples, images) for side, one in sides.items()}
        filled += [batch.num_tokens / batch.tokens.numel() for batch in prepared.get("ours", ())]
        if examples != seen:  # else they are counted already; it warms up, too
            counts = _compare_and_count(sides, prepared, num_labels, same)
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
        memory = {side: memory_of(side) for side in sides}
    return {
        "samples": samples,
        "tokens": tokens,
        "row_share": statistics.mean(filled) if filled else None,
        "seconds": seconds,
        "flops": flops,
        "ceiling_flops_per_second": ceilings,
        "peak_memory_bytes": memory,
    }


def _compare_and_count(
    sides: dict[str, Side], prepared: dict[str, Any], num_labels: int, same: Sequence[str]
) -> dict[str, int]:
    """Operations of each side's step; those of ``same`` have one loss and gradient norm, or it ends here."""
    found, counts = {}, {}
    for side, one in sides.items():
        # A count of FlexAttention and of compiled layers has no values; on the CPU one pass gives both.
        apart = one.device.type == "cuda" or getattr(one.model, "compiled", False)
        if apart:
            with FlopCount() as count:
                one.backward(prepared[side], num_labels)
            one.optimizer.zero_grad(set_to_none=True)
            loss = one.backward(prepared[side], num_labels).item()
        else:
            with FlopCount() as count:
                loss = one.backward(prepared[side], num_labels).item()
        norm = torch.nn.utils.get_total_norm([p.grad for p in one.trained if p.grad is not None]).item()
        one.optimizer.zero_grad(set_to_none=True)
        found[side], counts[side] = (loss, norm), count.total
    tolerance = 1e-3 if next(iter(sides.values())).dtype == torch.float32 else 5e-2
    compared = [side for side in sides if side in same]
    for side in compared[1:]:
        for expected, value in zip(found[compared[0]], found[side], strict=True):
            if abs(expected - value) > tolerance * abs(expected):
                raise SystemExit(
                    f"loss and gradient norm of {side} are {found[side]}, those of {compared[0]} {found[compared[0]]}"
                )
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


def ratios(found: dict[str, Any], side: str, base: str) -> dict[str, float]:
    """Compare a side with another one of the same workload.

    Args:
        found: what ``measure_workload`` returned.
        side: whose time and operations are divided by those of ``base``.
        base: whose memory is divided by that of ``side``.

    Returns:
        The ratios of one table row.
    """
    seconds, flops, memory = found["seconds"], found["flops"], found["peak_memory_bytes"]
    values = [theirs / ours for theirs, ours in zip(seconds[side], seconds[base], strict=True)]
    counted = sum(flops[side]) / sum(flops[base])
    return {
        "time": round(statistics.median(values), 3),
        "time_lowest": round(min(values), 3),
        "time_highest": round(max(values), 3),
        "counted": round(counted, 3),
        "realised": round(statistics.median(values) / counted, 3),
        "memory": round(memory[base] / memory[side], 3),
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


def memory_in_a_process(arguments: Sequence[str]) -> int:
    """Run a benchmark for the peak memory of one side alone.

    Args:
        arguments: the script and its options; it prints what ``peak_memory`` returns.
    """
    done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


def peak_memory(side: Side, preset: Preset, workload: str) -> int:
    """Make two steps and return this process's peak resident memory in bytes.

    Args:
        side: the only side of this process.
        preset: the model's shapes.
        workload: one of ``WORKLOADS``.
    """
    for seed in range(2):
        examples = draw_examples(workload, preset, seed)
        images = random_images(preset, examples)
        side.step(side.prepare(examples, images), sum(len(example.answer) + 1 for example in examples))
    # Not getrusage: what that says of a process begins with the memory of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def describe_run(report: dict[str, Any], preset: Preset, learns: str) -> list[str]:
    """Return the lines of a table's head that say what ran on what.

    Args:
        report: ``machine``, ``dtype`` and ``compile``.
        preset: the model's shapes.
        learns: how the sentence about tower and projector goes on.
    """
    machine = report["machine"]
    compiled = "; our decoder layers compiled" if report["compile"] else ""
    return [
        f"Frozen Llama of {preset.layers} layers of width {preset.dim}, vocabulary {preset.vocab_size:,}, in"
        f" {report['dtype']}; a CLIP tower of {preset.tower_layers} layers of width {preset.tower_dim} and a projector"
        f"{learns}; {preset.image_tokens} image tokens; padded batches of {preset.batch_size}{compiled}.",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']},"
        f" transformers {machine['transformers']}, Python {machine['python']}.",
    ]


def sides_table(found: dict[str, Any], device: str) -> list[str]:
    """Return a table row for each side of a workload.

    Args:
        found: what ``measure_workload`` returned.
        device: its type.
    """
    unit = "GB allocated" if device == "cuda" else "GB resident"
    lines = [
        f"| side | samples/s | tokens/s | seconds a step | lowest to highest | GFLOP | of the ceiling | {unit} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    repeats = len(found["ceiling_flops_per_second"])
    for side, seconds in found["seconds"].items():
        median = statistics.median(seconds)
        flops = statistics.mean(found["flops"][side])
        shares = [
            count / time / ceiling
            for count, time, ceiling in zip(
                found["flops"][side], seconds, found["ceiling_flops_per_second"], strict=True
            )
        ]
        lines.append(
            f"| {side} | {found['samples'] / repeats / median:.2f} | {found['tokens'] / repeats / median:,.0f} |"
            f" {median:.3g} | {min(seconds):.3g} to {max(seconds):.3g} | {flops / 1e9:,.0f} |"
            f" {statistics.median(shares):.0%} | {found['peak_memory_bytes'][side] / 1e9:.2f} |"
        )
    return lines


def ratios_table(rows: dict[str, dict[str, float]], title: str = "ours against") -> list[str]:
    """Return a table row for each side that ours is compared with.

    Args:
        rows: name of the side -> ``ratios``.
        title: head of the first column.
    """
    lines = [
        f"| {title} | times faster | lowest to highest | counted | realised | memory |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for side, ratio in rows.items():
        lines.append(
            f"| {side} | {ratio['time']:.2f} | {ratio['time_lowest']:.2f} to {ratio['time_highest']:.2f} |"
            f" {ratio['counted']:.2f} | {ratio['realised']:.0%} | {ratio['memory']:.2f} |"
        )
    return lines


EXPLAINED = (
    "times faster: median over the steps of their time over ours for the same samples. counted: their"
    " floating-point operations over ours, matrix products and attention, forward and backward, as torch"
    " dispatches them. realised: the first over the second. of the ceiling: a side's operations a second over the"
    " best rate that the largest product of a layer reached just before, in the same dtype; the count has 4"
    " operations for a frozen weight and token, so this is the share of the frozen model's floor. tokens/s: tokens"
    " of the samples as given, an image for each, without padding, whatever a side computes of them. memory: our"
    " peak over theirs (on a CPU, resident memory of a process of its own, libraries included)."
)
