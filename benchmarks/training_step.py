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
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from training_measurement import (
    DTYPES,
    EXPLAINED,
    describe_run,
    measure_workload,
    memory_in_a_process,
    peak_memory,
    ratios,
    ratios_table,
    sides_table,
)
from training_sides import SIDES, make_sides
from training_workloads import PRESETS, WORKLOADS, Preset

from medcap.checkpoints.build_model import choose_device
from medcap.files import write_text


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
    preset, device, dtype = PRESETS[options.preset], choose_device(options.device), DTYPES[options.dtype]
    if options.memory_of:
        (side,) = make_sides(preset, device, dtype, [options.memory_of]).values()
        print(peak_memory(side, preset, options.workloads[0]))
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
        found = measure_workload(
            name,
            sides,
            preset,
            device,
            options.repeats,
            options.sides,
            partial(_memory, workload=name, options=options),
        )
        others = [side for side in sides if side != "ours" and "ours" in sides]
        report["workloads"][name] = {**found, "ratios": {side: ratios(found, side, "ours") for side in others}}
        print(f"{name}: {json.dumps(report['workloads'][name]['ratios'])}", file=sys.stderr)
    return report


def _memory(side: str, workload: str, options: argparse.Namespace) -> int:
    command = [__file__, "--preset", options.preset, "--dtype", options.dtype, "--device", "cpu"]
    return memory_in_a_process([*command, "--memory-of", side, "--workloads", workload])


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"# Training step, preset {report['preset']}",
        "",
        *describe_run(report, PRESETS[report["preset"]], " train"),
        "Made by `benchmarks/training_step.py`. All sides had the same loss and gradient norm.",
        "",
    ]
    for name, found in report["workloads"].items():
        repeats = len(found["ceiling_flops_per_second"])
        lines += [
            f"## {name}: {found['samples'] // repeats} samples a step, {repeats} steps",
            "",
            *sides_table(found, report["device"]),
            "",
            *ratios_table(found["ratios"]),
            "",
        ]
    return "\n".join([*lines, EXPLAINED]) + "\n"


if __name__ == "__main__":
    main()
