"""What converting a source of a million rows costs: rows per second, and the most memory that was ever used.

    PYTHONPATH=tests python benchmarks/convert_scale.py --rows 1000000 --output results/benchmarks/convert_scale.json

The rows are drawn, in the layouts of three published sources. Written: the JSON file and a table beside it,
``convert_scale.md``. It needs about 2 kB of disk a row in the temporary folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from helpers.downloads import PMC_OA_IMAGES, Downloads
from medcap.datasets.conversion.base import Converter
from medcap.datasets.converters.llava_med import PARTS, LlavaMed
from medcap.datasets.converters.pmcoa import PmcOa
from medcap.datasets.converters.pubmedvision import PubMedVision
from medcap.datasets.converters.rocov2 import Rocov2

TEXT = (
    "the chest radiograph shows a small round opacity in the left lower lobe with no pleural effusion and a normal"
    " cardiac silhouette while the mediastinum is not widened and the osseous structures are intact"
)
IMAGES = 1000
FEW = 10


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="records of each source (1000000)")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/convert_scale.json"))
    options = parser.parse_args()
    sources: dict[str, tuple[Converter, Callable[[Downloads, int], Path]]] = {
        "JSONL (pmcoa)": (PmcOa(), _write_pmcoa),
        "JSON array (llava-med)": (LlavaMed("alignment"), _write_llava_med),
        "CSV (rocov2)": (Rocov2(), _write_rocov2),
        "JSON array, sorted by image (pubmedvision)": (PubMedVision(), _write_pubmedvision),
    }
    measured = {name: measure(converter, write, options.rows) for name, (converter, write) in sources.items()}
    # Here, because it imports torch, whose pages the forked processes would count as theirs.
    from machine import describe_machine

    report = {"machine": describe_machine(), "rows": options.rows, "sources": measured}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    options.output.with_suffix(".md").write_text(_table(report), encoding="utf-8")
    print(_table(report))


def measure(converter: Converter, write: Callable[[Downloads, int], Path], rows: int) -> dict[str, Any]:
    """Draw a source and convert it, in a process of its own.

    Args:
        converter: of the source.
        write: draws it and gives its file.
        rows: records.

    Returns:
        What was measured: seconds, bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        few, many = Downloads(Path(folder, "few")), Downloads(Path(folder, "many"))
        write(few, FEW)
        file = write(many, rows)
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_convert, args=(converter, few, many, sender))
        process.start()
        sender.close()
        found = receiver.recv()
        process.join()
        return {"source_bytes": file.stat().st_size, **found, "records_per_second": rows / found["seconds"]}


def _convert(converter: Converter, few: Downloads, many: Downloads, sender: Connection) -> None:
    # The first one imports what is needed, so that the rest is what rows cost.
    few.convert(converter)
    before = _peak()
    started = time.perf_counter()
    (written,) = many.convert(converter)
    seconds = time.perf_counter() - started
    sender.send(
        {
            "seconds": seconds,
            "rows": written.rows,
            "output_bytes": written.path.stat().st_size,
            "peak_bytes": _peak(),
            "peak_growth_bytes": _peak() - before,
        }
    )


def _peak() -> int:
    """Return the most bytes that this process has had in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _captions(rows: int) -> Iterator[tuple[int, str, str]]:
    generator, words = random.Random(0), TEXT.split()
    for row in range(rows):
        yield row, f"{row % IMAGES:06d}.jpg", " ".join(generator.choices(words, k=38))


def _write_pmcoa(downloads: Downloads, rows: int) -> Path:
    downloads.images(PMC_OA_IMAGES, *(f"{image:06d}.jpg" for image in range(IMAGES)))
    records = ({"image": image, "caption": caption} for _, image, caption in _captions(rows))
    return _write(downloads, "pmc_oa/train.jsonl", (json.dumps(record) + "\n" for record in records))


def _write_llava_med(downloads: Downloads, rows: int) -> Path:
    downloads.images("llava_med/images", *(f"{image:06d}.jpg" for image in range(IMAGES)))
    records = (
        {"id": str(row), "image": image, "conversatons": _turns("What is shown?\n<image>", caption)}
        for row, image, caption in _captions(rows)
    )
    return _write_array(downloads, f"llava_med/{PARTS['alignment']}", records)


def _write_rocov2(downloads: Downloads, rows: int) -> Path:
    downloads.images("PMC-VQA-text/train", *(f"{image:06d}.jpg" for image in range(IMAGES)))
    lines = (f'{image.removesuffix(".jpg")},"{caption}, seen."\n' for _, image, caption in _captions(rows))
    return _write(downloads, "PMC-VQA-text/train_captions.csv", ["ID,Caption\n"], lines)


def _write_pubmedvision(downloads: Downloads, rows: int) -> Path:
    # Every record has an image of its own, as there: names are what is sorted.
    folder = downloads.images("PMC-VQA-text/images_vision", "picture.jpg")
    for image in range(min(rows, IMAGES)):
        os.link(folder / "picture.jpg", folder / f"{image:08d}.jpg")
    order = list(range(rows))
    random.Random(1).shuffle(order)
    records = (
        {"image": [f"images/{image:08d}.jpg"], "conversations": _turns("Describe it.", caption)}
        for image, (_, _, caption) in zip(order, _captions(rows), strict=True)
    )
    return _write_array(downloads, "PMC-VQA-text/PubMedVision_Alignment_VQA.json", records)


def _turns(asked: str, answered: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": asked}, {"from": "gpt", "value": answered}]


def _write_array(downloads: Downloads, name: str, records: Iterator[dict[str, Any]]) -> Path:
    lines = (("," if number else "[") + json.dumps(record) + "\n" for number, record in enumerate(records))
    return _write(downloads, name, lines, ["]\n"])


def _write(downloads: Downloads, name: str, *parts: Any) -> Path:
    path = downloads.text(name, "")
    with path.open("w", encoding="utf-8") as file:
        for part in parts:
            file.writelines(part)
    return path


def _table(report: dict[str, Any]) -> str:
    machine = report["machine"]
    lines = [
        "# Converting sources of a million rows",
        "",
        f"{report['rows']:,} drawn records in each source, converted to rows by `medcap prepare`; every row's image is"
        " looked for on the disk. The files are in the system's page cache.",
        f"{machine['processor']}, {machine['cores']} cores (one is used), Python {machine['python']}.",
        "Made by `benchmarks/convert_scale.py` (make bench-convert).",
        "",
        "| source | MB read | rows written | MB written | s | records/s | peak memory | of it for the rows |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in report["sources"].items():
        lines.append(
            f"| {name} | {found['source_bytes'] / 1e6:,.0f} | {found['rows']:,} | {found['output_bytes'] / 1e6:,.0f} |"
            f" {found['seconds']:.1f} | {found['records_per_second']:,.0f} | {found['peak_bytes'] / 1e6:.0f} MB |"
            f" {found['peak_growth_bytes'] / 1e6:.1f} MB |"
        )
    lines += [
        "",
        f"Peak memory is the process's VmHWM; of it for the rows: by how much it is above that after {FEW} rows.",
        "PubMedVision has a new image in each record, of which the first"
        f" {IMAGES:,} exist here: the others are counted as missing, after they were sorted.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
