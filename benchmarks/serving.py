"""How many requests the server answers: 32 clients at once against one client after another, with equal answers.

    make bench-serving

It needs the model of ``medcap demo`` and draws images of its own, a new one for every request, so that none is encoded
already. Server and clients (the openai package) share this machine. Written: ``results/benchmarks/serving.json`` and
``serving.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import describe_machine
from openai import AsyncOpenAI

from medcap.datasets.phantoms.writing import write_phantoms

QUESTIONS = ("", "Is there a nodule?", "Where in the image is the lesion?", "What modality was used?")
CLIENTS = 32


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("results/demo"), help="folder of medcap demo (results/demo)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the table goes")
    parser.add_argument("--requests", type=int, default=128, help="of each side in each repeat (128)")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved repeats (7)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(options.demo) as url:
        bodies = make_bodies(Path(folder), options.requests * (2 * options.repeats + 1))
        report = asyncio.run(measure(url, bodies, options.requests, options.repeats))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "serving.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (options.out / "serving.md").write_text(_table(report), encoding="utf-8")
    print(_table(report))


@contextmanager
def server(demo: Path) -> Generator[str]:
    """Run ``medcap serve`` on the demo's run; gives its address."""
    program = "import sys; from medcap.cli import main; sys.exit(main())"
    # The demo's configuration names its language model from the folder that the demo was started in.
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", str(demo.resolve() / "train"), "--port=0", f"--max-rows={CLIENTS}"],
        cwd=demo.resolve().parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield re.findall(r"http://\S+", process.stdout.readline())[0]
    finally:
        process.terminate()
        process.wait()


def make_bodies(folder: Path, count: int) -> list[dict[str, Any]]:
    """Return requests about images that are not cached: captions and questions in turn."""
    write_phantoms(folder, count, seed=2024)
    bodies = []
    for position, path in enumerate(sorted((folder / "images").iterdir())):
        url = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}]
        question = QUESTIONS[position % len(QUESTIONS)]
        if question:
            parts.append({"type": "text", "text": question})
        bodies.append({"model": "train", "messages": [{"role": "user", "content": parts}]})
    return bodies


@dataclass(frozen=True)
class Reply:
    """What one request got, and when (seconds from its start)."""

    text: str
    num_tokens: int
    first: float
    last: float


async def ask(api: AsyncOpenAI, body: dict[str, Any]) -> Reply:
    """One streamed request."""
    began = time.perf_counter()
    first = None
    pieces, num_tokens = [], 0
    async for chunk in await api.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}):
        num_tokens = chunk.usage.completion_tokens if chunk.usage else num_tokens
        piece = chunk.choices[0].delta.content if chunk.choices else ""
        if piece:
            first = first or time.perf_counter()
            pieces.append(piece)
    end = time.perf_counter()
    return Reply("".join(pieces), num_tokens, (first or end) - began, end - began)


async def ask_all(api: AsyncOpenAI, bodies: Sequence[dict[str, Any]], clients: int) -> tuple[float, list[Reply]]:
    """Share requests among clients, each asking its next when it has the answer; gives the seconds and the replies."""
    replies: dict[int, Reply] = {}
    queue = iter(enumerate(bodies))

    async def client() -> None:
        for position, body in queue:
            replies[position] = await ask(api, body)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - began, [replies[position] for position in range(len(bodies))]


async def measure(url: str, bodies: Sequence[dict[str, Any]], count: int, repeats: int) -> dict[str, Any]:
    """Run both sides in turn, then see that the answers do not depend on the side.

    Args:
        url: of the server.
        bodies: requests, all different.
        count: of each side in each repeat.
        repeats: how often.

    Returns:
        Rates and times of every repeat.
    """
    rounds = iter([bodies[start : start + count] for start in range(0, len(bodies), count)])
    report: dict[str, Any] = {"machine": {**describe_machine(), "openai": version("openai")}, "requests": count}
    sides: dict[int, list[dict[str, float]]] = {1: [], CLIENTS: []}
    asked, replies = [], []
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as api:
        await ask_all(api, next(rounds), CLIENTS)
        for _ in range(repeats):
            for clients, results in sides.items():
                asked = next(rounds)
                seconds, replies = await ask_all(api, asked, clients)
                results.append(_summary(seconds, replies))
        _, alone = await ask_all(api, asked, 1)
    assert [reply.text for reply in replies] == [reply.text for reply in alone], "answers depend on the batch"
    report["clients"] = {str(clients): results for clients, results in sides.items()}
    return report


def _summary(seconds: float, replies: Sequence[Reply]) -> dict[str, float]:
    lasts = sorted(reply.last for reply in replies)
    return {
        "requests per second": len(replies) / seconds,
        "answer tokens per second": sum(reply.num_tokens for reply in replies) / seconds,
        "first words, median, ms": 1000 * statistics.median(reply.first for reply in replies),
        "whole answer, median, ms": 1000 * statistics.median(lasts),
        "whole answer, 95 of 100, ms": 1000 * lasts[int(0.95 * len(lasts))],
    }


def _table(report: dict[str, Any]) -> str:
    machine = report["machine"]
    one, many = report["clients"]["1"], report["clients"][str(CLIENTS)]
    lines = [
        "# Serving",
        "",
        f"`medcap serve` on the demo's model in float32, {report['requests']} streamed requests a side and repeat"
        f" (captions and short questions, a new image each), {len(one)} interleaved repeats; one client that asks after"
        f" each answer against {CLIENTS} such clients. Answers are equal. Server and clients (openai"
        f" {machine['openai']}) share the processor.",
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, Python {machine['python']}.",
        "Made by `make bench-serving`.",
        "",
        f"| median (lowest to highest) | 1 client | {CLIENTS} clients |",
        "|---|---:|---:|",
    ]
    lines += [f"| {name} | {_range(one, name)} | {_range(many, name)} |" for name in one[0]]
    rate = "requests per second"
    ratios = [after[rate] / before[rate] for before, after in zip(one, many, strict=True)]
    lines += [
        "",
        f"Requests per second, {CLIENTS} clients over one: {statistics.median(ratios):.2f}"
        f" ({min(ratios):.2f} to {max(ratios):.2f}).",
        "",
    ]
    return "\n".join(lines)


def _range(results: Sequence[dict[str, float]], name: str) -> str:
    values = [result[name] for result in results]
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()
