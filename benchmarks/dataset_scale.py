"""What a data file of millions of rows costs: opening it, a worker's memory, counting tokens, planning an epoch.

    PYTHONPATH=tests python benchmarks/dataset_scale.py --rows 2000000 --output results/benchmarks/dataset_scale.json

The rows are drawn. Written: the JSON file and a table beside it, ``dataset_scale.md``. It needs about 1 kB of disk a
row in the temporary folder, for the rows as JSONL and as a JSON array.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from machine import describe_machine
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from helpers.tokenizers import tiny_tokenizer_file
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.epoch_order import EpochOrder, plan_packed
from medcap.data.packing import SampleTable
from medcap.datasets.chat import chat_dataset
from medcap.datasets.chat_rows import ChatDataset
from medcap.datasets.rows.json_file import JsonRows, open_rows
from medcap.datasets.rows.json_rows import read_rows
from medcap.datasets.token_counts import count_tokens
from medcap.models.tokenizers import llama3_tokenizer

PLACEHOLDER = "\u2460"
QUESTIONS = ("What is shown in the image?", "Is there a lesion, and on which side?", "Describe the image in detail.")
TEXT = (
    "the chest radiograph shows a small round opacity in the left lower lobe with no pleural effusion and a normal"
    " cardiac silhouette while the mediastinum is not widened and the osseous structures are intact"
)
NUM_IMAGE_TOKENS = 32
ROW_LENGTH = 2048
PLAIN_ROWS = 100_000
LOADED_BATCHES, BATCH_SIZE = 1_000, 8
Value = TypeVar("Value")


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of the file (2000000)")
    parser.add_argument("--images", type=int, default=1000, help="images that the rows show in turn (1000)")
    parser.add_argument("--reads", type=int, default=10_000, help="random rows that a worker reads (10000)")
    parser.add_argument("--counted-rows", type=int, default=20_000, help="rows whose tokens are counted (20000)")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/dataset_scale.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDCAP_CACHE"] = str(Path(folder, "cache"))
        report = measure(Path(folder), options.rows, options.images, options.reads, options.counted_rows)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    options.output.with_suffix(".md").write_text(_table(report), encoding="utf-8")
    print(_table(report))


def measure(folder: Path, num_rows: int, num_images: int, num_reads: int, counted_rows: int) -> dict[str, Any]:
    """Draw the rows and measure.

    Args:
        folder: empty; files and the cache go there.
        num_rows: of the file.
        num_images: that the rows show in turn.
        num_reads: random rows that a worker reads.
        counted_rows: rows of the smaller file whose tokens are counted.

    Returns:
        What was measured: seconds, bytes, rows per second.
    """
    (folder / "images").mkdir()
    for index in range(num_images):
        Image.new("RGB", (8, 8), (index % 256, index // 256 % 256, 0)).save(folder / _image_name(index))
    lines, array, few = folder / "rows.jsonl", folder / "rows.json", folder / "few.jsonl"
    _write_rows(lines, array, num_rows, num_images)
    _write_head(lines, few, min(counted_rows, num_rows))
    first_seconds, rows = _timed(lambda: open_rows(lines))
    second_seconds, rows = _timed(lambda: open_rows(lines))
    index_bytes = sum(path.stat().st_size for path in (folder / "cache/rows").glob("*/*"))
    array_seconds, _ = _timed(lambda: open_rows(array))
    return {
        "machine": describe_machine(),
        "rows": num_rows,
        "images": num_images,
        "bytes": lines.stat().st_size,
        "open_seconds": first_seconds,
        "open_again_seconds": second_seconds,
        "open_array_seconds": array_seconds,
        "index_bytes": index_bytes,
        "worker": _in_fork(_read_random, rows, num_reads),
        "plain": _in_fork(_hold_all, lines, min(PLAIN_ROWS, num_rows)),
        **_measure_dataset(folder, lines, few, num_rows),
    }


def _measure_dataset(folder: Path, lines: Path, few: Path, num_rows: int) -> dict[str, Any]:
    tokenizer = ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(folder / "tokenizer"))), NUM_IMAGE_TOKENS)
    whole = chat_dataset(tokenizer, source=str(lines), max_seq_len=ROW_LENGTH)
    loader = _in_fork(_load_batches, whole, whole.plan())
    dataset = chat_dataset(tokenizer, source=str(few), max_seq_len=ROW_LENGTH, packed=True)
    assert dataset.bad == []
    counting, tables = {}, []
    for processes in sorted({1, len(os.sched_getaffinity(0))}):
        key = f"{processes} processes"
        seconds, (table, _) = _timed(
            lambda key=key, n=processes: count_tokens(dataset.sample, dataset.num_rows, key, n)
        )
        tables.append(table)
        again, _ = _timed(lambda key=key: count_tokens(dataset.sample, dataset.num_rows, key))
        rate = dataset.num_rows / seconds
        counting[processes] = {
            "seconds": seconds,
            "again_seconds": again,
            "rows_per_second": rate,
            "seconds_for_all_rows": num_rows / rate,
        }
    table = tables[-1]
    # Planning looks at the counts alone: those of the few rows, repeated, stand for all.
    everything = SampleTable(*(np.resize(column, num_rows) for column in (table.lengths, table.prefixes, table.groups)))
    generator = np.random.default_rng([0, 0])
    seconds, plan = _timed(
        lambda: plan_packed(everything, generator.permutation(num_rows), ROW_LENGTH, generator=generator)
    )
    columns = (plan.samples, plan.documents, plan.items)
    return {
        "loader": loader,
        "counted_rows": dataset.num_rows,
        "tokens_per_row": float(table.lengths.mean()),
        "counting": counting,
        "row_length": ROW_LENGTH,
        "plan_seconds": seconds,
        "plan_rows": len(plan),
        "plan_bytes": sum(column.nbytes for column in columns if column is not None),
    }


def _image_name(index: int) -> str:
    return f"images/{index:06d}.png"


def _write_rows(lines: Path, array: Path, num_rows: int, num_images: int) -> None:
    generator = np.random.default_rng(0)
    vocabulary = TEXT.split()
    with lines.open("w", encoding="utf-8") as one, array.open("w", encoding="utf-8") as other:
        separator = "[\n"
        for start in range(0, num_rows, 10_000):
            words = generator.integers(len(vocabulary), size=(min(10_000, num_rows - start), 38)).tolist()
            for row, chosen in enumerate(words, start):
                conversation = [
                    {"from": "human", "value": f"{PLACEHOLDER}{QUESTIONS[row % len(QUESTIONS)]}"},
                    {"from": "gpt", "value": " ".join(vocabulary[word] for word in chosen)},
                ]
                value = {
                    "id": f"drawn-{row:08d}",
                    "image": _image_name(row % num_images),
                    "conversations": conversation,
                }
                text = json.dumps(value, ensure_ascii=False)
                one.write(text + "\n")
                other.write(separator + text)
                separator = ",\n"
        other.write("\n]\n")
    for path in (lines, array):
        os.utime(
            path, (time.time() - 3600, time.time() - 3600)
        )  # the index of a file that was written just now is not kept


def _write_head(source: Path, target: Path, num_rows: int) -> None:
    with source.open(encoding="utf-8") as lines, target.open("w", encoding="utf-8") as file:
        file.writelines(itertools.islice(lines, num_rows))


def _read_random(rows: JsonRows, num_reads: int) -> int:
    for index in np.random.default_rng(1).integers(len(rows), size=num_reads).tolist():
        rows.read(index)
    return num_reads


def _load_batches(dataset: ChatDataset, plan: EpochOrder) -> int:
    for start in range(0, LOADED_BATCHES * BATCH_SIZE, BATCH_SIZE):
        dataset.load(plan, start, start + BATCH_SIZE, pil_to_tensor)
    return LOADED_BATCHES * BATCH_SIZE


def _hold_all(source: Path, num_rows: int) -> list[Any]:
    """Return the plain way: every row decoded, in a list."""
    return list(itertools.islice(read_rows(source), num_rows))


def _in_fork(work: Callable[..., Any], *arguments: Any) -> dict[str, float]:
    """Work in a forked process: its seconds, and by how much its memory grows."""

    def run(connection: Connection) -> None:
        before = _memory()
        seconds, result = _timed(lambda: work(*arguments))
        growth = {f"{name}_growth_bytes": size - before[name] for name, size in _memory().items()}
        number = result if isinstance(result, int) else len(result)
        connection.send({"rows": number, "seconds": seconds, "rows_per_second": number / seconds, **growth})

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(sender,))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


def _memory() -> dict[str, int]:
    """Bytes: pages no other process maps (USS), its share of all pages (PSS), pages that are of no file (anonymous)."""
    sizes = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        sizes[name] = int(value.split()[0]) * 1024
    return {
        "uss": sizes["Private_Clean"] + sizes["Private_Dirty"],
        "pss": sizes["Pss"],
        "anonymous": sizes["Anonymous"],
    }


def _timed(work: Callable[[], Value]) -> tuple[float, Value]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _table(report: dict[str, Any]) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: dict[str, Any]) -> Iterator[str]:
    machine, worker, plain = report["machine"], report["worker"], report["plain"]
    num_rows = report["rows"]
    yield "# Data files of millions of rows"
    yield ""
    yield (
        f"{num_rows:,} drawn rows, {report['bytes'] / num_rows:.0f} bytes each ({report['bytes'] / 1e6:,.0f} MB), which"
        f" show {report['images']:,} small images in turn. The file is in the system's page cache."
    )
    yield (
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, torch {machine['torch']},"
        f" NumPy {machine['numpy']}."
    )
    yield "Made by `benchmarks/dataset_scale.py`."
    yield ""
    yield "| all rows | |"
    yield "|---|---|"
    yield f"| open JSONL for the first time | {report['open_seconds']:.2f} s |"
    yield f"| open it again | {report['open_again_seconds'] * 1e3:.0f} ms |"
    yield f"| open them as a JSON array for the first time | {report['open_array_seconds']:.2f} s |"
    yield f"| index on disk | {report['index_bytes'] / 1e6:.0f} MB |"
    yield f"| plan an epoch of rows of {report['row_length']} tokens | {report['plan_seconds']:.2f} s |"
    yield f"| that plan in memory | {report['plan_bytes'] / 1e6:.0f} MB |"
    yield ""
    yield "| a forked worker | rows | rows/s | USS grows by | PSS grows by | of it anonymous |"
    yield "|---|---|---|---|---|---|"
    for name, found in (
        ("reads random rows", worker),
        (f"loads shuffled batches of {BATCH_SIZE}: rows, tokens, pictures", report["loader"]),
        ("plain: holds the first rows decoded", plain),
    ):
        yield (
            f"| {name} | {found['rows']:,} | {found['rows_per_second']:,.0f} |"
            f" {found['uss_growth_bytes'] / 1e6:.1f} MB | {found['pss_growth_bytes'] / 1e6:.1f} MB |"
            f" {found['anonymous_growth_bytes'] / 1e6:.1f} MB |"
        )
    yield ""
    yield (
        "From `/proc/self/smaps_rollup`. USS: pages that no other process maps; PSS: with its share of those that"
        " others map too; anonymous: pages of no file. The rest is the index, which are pages of the file system's"
        " cache that all workers share, and pages of the parent that the worker wrote to. All rows held decoded would"
        f" be {num_rows / plain['rows']:.0f} times the plain line:"
        f" {plain['uss_growth_bytes'] * num_rows / plain['rows'] / 1e9:.1f} GB for each process."
    )
    yield ""
    yield "| counting tokens, processes | rows/s | for all rows (computed) | from the cache |"
    yield "|---|---|---|---|"
    for processes, found in report["counting"].items():
        yield (
            f"| {processes} | {found['rows_per_second']:,.0f} | {found['seconds_for_all_rows'] / 60:.1f} min |"
            f" {found['again_seconds'] * 1e3:.0f} ms |"
        )
    yield ""
    yield (
        f"Counted on {report['counted_rows']:,} rows with the tests' tiny tokenizer, {report['tokens_per_row']:.0f}"
        " tokens a row; planned with their counts repeated."
    )


if __name__ == "__main__":
    main()
