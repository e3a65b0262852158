"""The ``medcap`` command: train, score and look at runs, use them and hand them on."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.commands import (
    agree,
    chat,
    compare,
    delta,
    download,
    export,
    export_seg,
    import_model,
    instruct,
    leaderboard,
    leakcheck,
    list_parts,
    merge,
    phantom_benchmarks,
    phantom_boxes,
    prepare,
    prepare_images,
    probe,
    push,
    reorganize,
    retrieve,
    run_pipeline,
    score,
    serve,
    stats,
    summarize,
    sweep,
    validate,
    web,
)
from medcap.commands.arguments import expand_home, positive, seed
from medcap.configs import packaged_configs, packaged_pipelines, packaged_sweeps
from medcap.errors import UserError
from medcap.reporting import run_program

RECIPES = {
    "medcap/recipes/full_finetune_single_device": "train tower and projector through a frozen language model",
    "medcap/recipes/full_finetune_distributed": "the same in several processes, on one node or many",
    "medcap/recipes/generate": "caption one picture, or run and score tasks",
    "medcap/recipes/judge": "let a language model say which answers are right, or rate them",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one ``medcap`` command.

    Args:
        arguments: the command line without the program's name; by default that of this process.

    Returns:
        0 at its end; every other status ends the program, see :func:`medcap.reporting.run_program`.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    run_program(lambda: _run(words), ["medcap", *words])
    return 0


def _run(words: list[str]) -> None:
    options = _parse(words)
    options.run(options)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    # argparse takes words that may be none only in one place; overrides may stand anywhere after the command.
    strange = [word for word in rest if word.startswith("-") or "=" not in word]
    if strange or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    expand_home(options)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="medcap", description="Teach a frozen Llama to see medical images.")
    commands = _add_commands(parser, "commands", "COMMAND")

    demo = commands.add_parser("demo", help="the whole way on drawn images, in minutes on a CPU")
    demo.add_argument("--out", type=Path, default=Path("results/demo"), help="folder for everything (results/demo)")
    demo.add_argument("--seed", type=seed, default=0, help="seed of the run (0)")
    demo.set_defaults(run=_demo)

    preparing = commands.add_parser("prepare", help="make training and test files")
    sources = _add_commands(preparing, "sources", "SOURCE")
    phantom = sources.add_parser("phantom", help="drawn images of made-up modalities, with full ground truth")
    phantom.add_argument("--out", type=Path, required=True, help="folder to write")
    phantom.add_argument("--count", type=positive, required=True, help="number of images")
    phantom.add_argument("--seed", type=seed, required=True, help="never use one seed for training and testing")
    phantom.add_argument("--image-size", type=positive, default=64, help="side in pixels (64)")
    phantom.set_defaults(run=_prepare_phantom)

    benchmarks = sources.add_parser("phantom-benchmarks", help="phantoms in the official layouts of the benchmarks")
    phantom_benchmarks.add_arguments(benchmarks)
    benchmarks.set_defaults(run=phantom_benchmarks.run)
    boxes = sources.add_parser("phantom-boxes", help=phantom_boxes.HELP)
    phantom_boxes.add_arguments(boxes)
    boxes.set_defaults(run=phantom_boxes.run)
    prepare.add_sources(sources)

    images = sources.add_parser("images", help=prepare_images.HELP)
    prepare_images.add_arguments(images)
    images.set_defaults(run=prepare_images.run)

    moved = sources.add_parser("reorganize", help=reorganize.HELP)
    reorganize.add_arguments(moved)
    moved.set_defaults(run=reorganize.run)

    for name, command, purpose in (
        ("validate", validate, "check every row of a training file, before a run does"),
        ("stats", stats, "tokens, images and packing of a training file, steps and memory of a run"),
        ("score", score, "score a file of answers, of any model, by published protocols"),
        ("summarize", summarize, summarize.HELP),
        ("leaderboard", leaderboard, leaderboard.HELP),
        ("agree", agree, agree.HELP),
        ("compare", compare, "whether one run is better than another, row by row"),
        ("leakcheck", leakcheck, "find test images in a training set"),
        ("probe", probe, probe.HELP),
        ("retrieve", retrieve, retrieve.HELP),
        ("instruct", instruct, instruct.HELP),
        ("run", run_pipeline, run_pipeline.HELP),
        ("sweep", sweep, sweep.HELP),
        ("chat", chat, chat.HELP),
        ("serve", serve, serve.HELP),
        ("web", web, web.HELP),
        ("export", export, export.HELP),
        ("export-seg", export_seg, export_seg.HELP),
        ("import", import_model, import_model.HELP),
        ("merge", merge, merge.HELP),
        ("delta", delta, delta.HELP),
        ("push", push, push.HELP),
        ("download", download, download.HELP),
    ):
        parser_of_command = commands.add_parser(name, help=purpose)
        command.add_arguments(parser_of_command)
        parser_of_command.set_defaults(run=command.run)

    listing = commands.add_parser("ls", help=list_parts.HELP)
    list_parts.add_arguments(listing)
    listing.set_defaults(run=_list)

    copy = commands.add_parser("cp", help="copy a packaged configuration to edit it")
    copy.add_argument("name", help="as medcap ls shows it")
    copy.add_argument("destination", type=Path, help="file or folder")
    copy.set_defaults(run=_copy)
    return parser


def _add_commands(parser: argparse.ArgumentParser, title: str, metavar: str) -> Any:
    """Give a parser commands; without one of them it prints its help, as ``tune`` does."""
    parser.set_defaults(run=lambda options: parser.print_help())
    return parser.add_subparsers(title=title, metavar=metavar)


def _demo(options: argparse.Namespace) -> None:
    # Where two virtual processors share a core, OpenMP threads that spin while they wait slow each other down. It is
    # read when torch is first imported, here and in the recipes that the demo starts.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from medcap.demo.run import run_demo

    run_demo(options.out, options.seed)


def _prepare_phantom(options: argparse.Namespace) -> None:
    from medcap.datasets.phantoms.writing import write_phantoms

    summary = write_phantoms(options.out, options.count, options.seed, image_size=options.image_size)
    done = "wrote" if summary.written else "already complete:"
    print(f"{done} {summary.images} images and {summary.questions} questions in {summary.folder}")


def _list(options: argparse.Namespace) -> None:
    if options.what is not None:
        list_parts.run(options)
        return
    print("RECIPES (tune run RECIPE --config CONFIG [key=value ...])")
    for name, purpose in RECIPES.items():
        print(f"  {name:<46} {purpose}")
    print("CONFIGURATIONS (--config NAME, or medcap cp NAME FILE)")
    _list_files(packaged_configs())
    print("PIPELINES (medcap run NAME, or medcap cp NAME FILE)")
    _list_files(packaged_pipelines())
    print("SWEEPS (medcap sweep NAME, or medcap cp NAME FILE)")
    _list_files(packaged_sweeps())


def _list_files(files: Mapping[str, Path]) -> None:
    for name, path in files.items():
        first_line = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        print(f"  {name:<46} {first_line}")


def _copy(options: argparse.Namespace) -> None:
    configs = packaged_configs() | packaged_pipelines() | packaged_sweeps()
    if options.name not in configs:
        raise UserError(f"there is no packaged configuration {options.name}: medcap ls lists them")
    destination: Path = options.destination
    if destination.is_dir():
        destination = destination / configs[options.name].name
    if destination.exists():
        raise UserError(f"{destination} exists already: name another file")
    shutil.copyfile(configs[options.name], destination)
    print(f"copied {options.name} to {destination}")


if __name__ == "__main__":
    sys.exit(main())
