"""What adapters add to a training step, and the same step with PEFT on transformers, in one process and in turn.

    make bench-adapters                      # preset small: two processor cores, minutes

The step is that of ``training_step.py``. Measured twice: tower and projector train, or the projector; the adapters are
``llm_lora`` on all linear maps. Losses and gradient norms of the two sides with adapters are compared first.
Written: ``results/benchmarks/training_adapters_PRESET.{json,md}``.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from adapter_sides import CASES, SIDES, AdapterSide, WithAdapters, make_adapter_sides
from decoder_adapters import RANK
from flop_count import FlopCount
from full_rows import draw_examples
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
from training_sides import random_images
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
    parser.add_argument("--workload", choices=WORKLOADS, default="captions")
    parser.add_argument("--compile", action="store_true", help="compile our decoder layers")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the tables go")
    parser.add_argument("--memory-of", choices=SIDES, help="only make two steps of one side and print the peak memory")
    parser.add_argument("--case", choices=CASES, default="projector", help="what trains in these two steps")
    options = parser.parse_args()
    preset, device, dtype = PRESETS[options.preset], choose_device(options.device), DTYPES[options.dtype]
    if options.memory_of:
        (side,) = make_adapter_sides(preset, device, dtype, [options.memory_of]).values()
        side.learn(CASES[options.case])
        print(peak_memory(side, preset, options.workload))
        return
    report = measure(preset, device, dtype, options)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"training_adapters_{options.preset}"
    write_text(path.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    write_text(path.with_suffix(".md"), _table(report))
    print(_table(report))


def measure(preset: Preset, device: torch.device, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Any]:
    """Time all sides in all cases.

    Args:
        preset: the model's shapes.
        device: where.
        dtype: of the frozen language model.
        options: ``workload``, ``repeats``, ``compile``.

    Returns:
        Seconds, operations, peak memory and ratios.
    """
    torch.manual_seed(0)
    sides = make_adapter_sides(preset, device, dtype)
    if options.compile:
        for name in ("without adapters", "adapters"):
            sides[name].model.compile_layers()
    report = {
        "machine": {**describe_machine(), "peft": version("peft")},
        "preset": options.preset,
        "dtype": options.dtype,
        "device": device.type,
        "compile": options.compile,
        "workload": options.workload,
        "rank": RANK,
        "cases": {},
    }
    for case, names in CASES.items():
        for side in sides.values():
            side.learn(names)
        memory = partial(_memory, case=case, options=options)
        same = ("adapters", "PEFT")
        found = measure_workload(options.workload, dict(sides), preset, device, options.repeats, same, memory)
        report["cases"][case] = {
            **found,
            "operations": _operations(sides, preset, options.workload),
            "cost": ratios(found, "adapters", "without adapters"),
            "against_peft": ratios(found, "PEFT", "adapters"),
        }
        print(f"{case}: {json.dumps(report['cases'][case]['against_peft'])}", file=sys.stderr)
    return report


def _operations(sides: dict[str, AdapterSide], preset: Preset, workload: str) -> dict[str, int]:
    """Count what makes up the difference that adapters make to the operations of one step."""
    ours = sides["adapters"]
    assert isinstance(ours, WithAdapters)
    examples = draw_examples(workload, preset, 0)
    images = random_images(preset, examples)
    num_labels = sum(len(example.answer) + 1 for example in examples)
    prepared = ours.prepare(examples, images)

    def counted(side: AdapterSide, batches: Any) -> int:
        with FlopCount() as count:
            side.backward(batches, num_labels)
        side.optimizer.zero_grad(set_to_none=True)
        return count.total

    adapted = counted(ours, prepared)
    with ours.model.without(["llm_lora"]):
        left_out = counted(ours, prepared)
    plain = sides["without adapters"]
    before = counted(plain, plain.prepare(examples, images))
    return {
        "difference": adapted - before,
        "adapters_by_formula": ours.own_operations(prepared),
        "adapters": adapted - left_out,
        "prompt_prefix": left_out - before,
    }


def _memory(side: str, case: str, options: argparse.Namespace) -> int:
    command = [__file__, "--preset", options.preset, "--dtype", options.dtype, "--device", "cpu"]
    return memory_in_a_process([*command, "--memory-of", side, "--case", case, "--workload", options.workload])


def _table(report: dict[str, Any]) -> str:
    learns = f"; adapters of rank {report['rank']} on all linear maps of the language model"
    lines = [
        f"# Adapters in a training step, preset {report['preset']}",
        "",
        *describe_run(report, PRESETS[report["preset"]], learns),
        f"PEFT {report['machine']['peft']} on transformers' `LlavaForConditionalGeneration`, no dropout.",
        "Made by `benchmarks/training_adapters.py`. The sides with adapters had the same loss and gradient norm.",
        "",
    ]
    for case, found in report["cases"].items():
        repeats = len(found["ceiling_flops_per_second"])
        cost, parts = found["cost"], found["operations"]
        own, prefix = (parts[name] / parts["difference"] for name in ("adapters_by_formula", "prompt_prefix"))
        lines += [
            f"## {case} and adapters train; {report['workload']}: {found['samples'] // repeats} samples a step,"
            f" {repeats} steps",
            "",
            *sides_table(found, report["device"]),
            "",
            *ratios_table({"PEFT": found["against_peft"]}, "our adapters against"),
            "",
            "| adapters against the step without | time | lowest to highest | counted | memory |"
            " own products | prompt prefix |",
            "|---|---:|---:|---:|---:|---:|---:|",
            f"| {case} | {cost['time']:.2f} | {cost['time_lowest']:.2f} to {cost['time_highest']:.2f} |"
            f" {cost['counted']:.3f} | {1 / cost['memory']:.2f} | {own:.0%} | {prefix:.0%} |",
            "",
        ]
    lines += [
        EXPLAINED,
        "",
        "Adapters against the step without: theirs over its, so 1.10 is a tenth more. own products: what of the"
        " difference in counted operations the adapters' products explain, by formula: for a token and a linear map"
        f" 2 r (in + out) forward and twice as much backward, r = {report['rank']}. prompt prefix: the words before the"
        " image, which a step without adapters that train does not compute again.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
