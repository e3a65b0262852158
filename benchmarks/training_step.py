"""How long a training step takes: ours, the same written plainly, and transformers, in one process and in turn.

    make bench-training                      # preset small: two processor cores, minutes
    PYTHONPATH=tests python benchmarks/training_step.py --preset llama3_1_8b --dtype bf16    # a GPU of 80 GB
    ... --compile --sides ours --llm-weights fp8 --split     # one side, and where its time goes

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
from full_rows import draw_examples
from kernel_times import split_table, split_time
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
from training_sides import SIDES, Side, make_sides, random_images
from training_workloads import PRESETS, WORKLOADS, Preset

from medcap.checkpoints.build_model import choose_device
from medcap.files import write_text
from medcap.modules.frozen_linear import LLM_WEIGHTS, UNQUANTISED


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
    parser.add_argument("--llm-weights", choices=LLM_WEIGHTS, default=UNQUANTISED, help="of our decoder's layers")
    parser.add_argument("--split", action="store_true", help="also tell products, attention and elementwise work apart")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the tables go")
    parser.add_argument("--memory-of", choices=SIDES, help="only make two steps of one side and print the peak memory")
    options = parser.parse_args()
    preset, device, dtype = PRESETS[options.preset], choose_device(options.device), DTYPES[options.dtype]
    if options.memory_of:
        (side,) = make_sides(preset, device, dtype, [options.memory_of], options.llm_weights).values()
        print(peak_memory(side, preset, options.workloads[0]))
        return
    report = measure(preset, device, dtype, options)
    options.out.mkdir(parents=True, exist_ok=True)
    weights = "" if options.llm_weights == UNQUANTISED else f"_{options.llm_weights}"
    path = options.out / f"training_step_{options.preset}{weights}{'_compiled' if options.compile else ''}"
    write_text(path.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    write_text(path.with_suffix(".md"), _table(report))
    print(_table(report))


def measure(preset: Preset, device: torch.device, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Any]:
    """Time all sides on all workloads.

    Args:
        preset: the model's shapes.
        device: where.
        dtype: of the frozen language model.
        options: ``workloads``, ``sides``, ``repeats``, ``compile``, ``llm_weights``, ``split``.

    Returns:
        Seconds, operations, peak memory and ratios.
    """
    torch.manual_seed(0)
    sides = make_sides(preset, device, dtype, options.sides, options.llm_weights)
    # What other weights compute is not the same.
    exact = options.llm_weights == UNQUANTISED
    same = [side for side in sides if exact or not side.startswith("transformers")]
    if options.compile and "ours" in sides:
        sides["ours"].model.compile_layers()
    report = {
        "machine": describe_machine(),
        "preset": options.preset,
        "dtype": options.dtype,
        "device": device.type,
        "compile": options.compile,
        "llm_weights": options.llm_weights,
        "same": same,
        "workloads": {},
    }
    for name in options.workloads:
        found = measure_workload(
            name,
            sides,
            preset,
            device,
            options.repeats,
            same,
            partial(_memory, workload=name, options=options),
        )
        others = [side for side in sides if side != "ours" and "ours" in sides]
        report["workloads"][name] = {**found, "ratios": {side: ratios(found, side, "ours") for side in others}}
        if options.split:
            report["workloads"][name]["milliseconds"] = _split(sides, preset, device, name)
        print(f"{name}: {json.dumps(report['workloads'][name]['ratios'])}", file=sys.stderr)
    return report


def _split(sides: dict[str, Side], preset: Preset, device: torch.device, workload: str) -> dict[str, dict[str, float]]:
    examples = draw_examples(workload, preset, 0)
    images = random_images(preset, examples)
    num_labels = sum(len(example.answer) + 1 for example in examples)
    splits = {}
    for name, side in sides.items():
        prepared = side.prepare(examples, images)
        splits[name] = split_time(partial(side.step, prepared, num_labels), device)
    return splits


def _memory(side: str, workload: str, options: argparse.Namespace) -> int:
    command = [__file__, "--preset", options.preset, "--dtype", options.dtype, "--device", "cpu"]
    command += ["--llm-weights", options.llm_weights]
    return memory_in_a_process([*command, "--memory-of", side, "--workloads", workload])


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"# Training step, preset {report['preset']}",
        "",
        *describe_run(report, PRESETS[report["preset"]], " train"),
        _compared(report),
        "",
    ]
    for name, found in report["workloads"].items():
        repeats = len(found["ceiling_flops_per_second"])
        lines += [
            f"## {name}: {found['samples'] // repeats} samples a step, {repeats} steps{_fullness(found)}",
            "",
            *sides_table(found, report["device"]),
            "",
            *([*ratios_table(found["ratios"]), ""] if found["ratios"] else []),
            *([*split_table(found["milliseconds"]), ""] if "milliseconds" in found else []),
        ]
    return "\n".join([*lines, EXPLAINED]) + "\n"


def _compared(report: dict[str, Any]) -> str:
    made = "Made by `benchmarks/training_step.py`."
    if report["llm_weights"] != UNQUANTISED:
        made += f" Our layers' weights in {report['llm_weights']}."
    if len(report["same"]) < 2:
        return made
    return f"{made} The same loss and gradient norm: {', '.join(report['same'])}."


def _fullness(found: dict[str, Any]) -> str:
    return f"; our rows are {found['row_share']:.0%} full" if found["row_share"] is not None else ""


if __name__ == "__main__":
    main()
