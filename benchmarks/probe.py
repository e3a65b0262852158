"""What tuning did to the encoder of ``medcap demo``: a linear classifier on its features, before and after.

    make bench-probe        after make demo

The training phantoms are the demo's. More test phantoms are drawn from the demo's test seed, so that the intervals are
narrow. Written: ``results/benchmarks/probe.json`` and ``probe.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from machine import describe_machine

from medcap.datasets.phantoms.writing import write_phantoms
from medcap.errors import UserError
from medcap.files import plain, write_json, write_text
from medcap.probe.report import text
from medcap.probe.run import ProbeOptions, ProbeReport, TargetResult, describe, probe
from medcap.report.intervals import between

FEATURES = ("patches", "pooled", "projected")


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("results/demo"), help="folder of medcap demo (results/demo)")
    parser.add_argument("--test-images", type=int, default=1000, help="phantoms to test on (1000)")
    parser.add_argument("--features", choices=FEATURES, action="append", help="what is read of the encoder (patches)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the table goes")
    options = parser.parse_args()
    marker = options.demo / "data/test/phantom.json"
    if not marker.is_file():
        raise UserError(f"{marker} does not exist: run make demo first")
    drawn = json.loads(marker.read_text(encoding="utf-8"))
    reports = {}
    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder, "test")
        write_phantoms(test, options.test_images, drawn["seed"], image_size=drawn["image_size"])
        for features in options.features or ("patches",):
            chosen = ProbeOptions(options.demo / "data/train", test, features=features)
            reports[features] = probe(str(options.demo / "train"), chosen)
            print(text(reports[features]))
    machine = describe_machine()
    described = {features: describe(report) for features, report in reports.items()}
    for own in described.values():
        own["settings"].pop("test")  # a temporary folder
    write_json(options.out / "probe.json", plain({"machine": machine, "features": described}))
    page = table(reports, machine)
    write_text(options.out / "probe.md", page)
    print(page)


def table(reports: dict[str, ProbeReport], machine: dict[str, Any]) -> str:
    """Return the reports as markdown."""
    first = next(iter(reports.values()))
    assert first.encoders.before is not None
    lines = [
        "# What the encoder's features are worth",
        "",
        f"A linear classifier on the frozen features of medcap demo's encoder: before ({first.encoders.before.name})"
        " and after tuning through the frozen language model."
        f" {len(first.train):,} training phantoms, those that the encoder was tuned on; {len(first.test):,} test"
        " phantoms of another seed. Standardised features, logistic regression, its C chosen on a fifth of the training"
        " images; shares of right answers with 95 % intervals (bootstrap; Wilson's where all are right); the difference"
        " is paired, p by McNemar's exact test.",
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, Python {machine['python']}. Made"
        " by `benchmarks/probe.py`.",
    ]
    for features, report in reports.items():
        lines += [
            "",
            f"## Features: {features}",
            "",
            "| attribute | labels | most frequent label | before | after | after - before, points | p | AUROC before,"
            " after |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
            *map(_row, report.targets),
        ]
    return "\n".join([*lines, ""])


def _row(result: TargetResult) -> str:
    before, after, change = result.results["before"], result.results["after"], result.difference
    assert change is not None and before.auroc is not None and after.auroc is not None
    assert change.interval.ends is not None, "there are many test images"
    points = [100 * value for value in (change.interval.value, *change.interval.ends)]
    cells = [
        result.target,
        str(len(result.classes)),
        f"{100 * result.majority:.1f} %",
        *(
            f"{100 * own.accuracy.value:.1f} %"
            f" ({between(own.accuracy.low, own.accuracy.high, lambda end: f'{100 * end:.1f}', ' - ')})"
            for own in (before, after)
        ),
        f"{points[0]:+.1f} ({points[1]:+.1f} to {points[2]:+.1f})",
        f"{change.p:.2g}",
        f"{before.auroc.value:.3f}, {after.auroc.value:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
