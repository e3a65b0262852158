"""``medcap stats FILE``: tokens, images and packing of a data file, steps and memory of a run with it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from medcap.commands import training_data
from medcap.data.json_text import parse_json
from medcap.errors import UserError
from medcap.plurals import counted

if TYPE_CHECKING:
    from medcap.commands.training_data import TrainingFile
    from medcap.data.packing import Sample
    from medcap.datasets.inspection.statistics import Packing
    from medcap.datasets.inspection.survey import Survey

BATCH_SIZE = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap stats``.
    """
    training_data.add_arguments(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help=f"samples or rows of a batch ({BATCH_SIZE})")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--tokens-per-second", type=float, metavar="X", help="measured speed, for the time of an epoch")
    speed.add_argument("--metrics", type=Path, metavar="FILE", help="log/metrics.jsonl of a run, for the same")
    parser.add_argument("--plot", type=Path, metavar="OUT.svg", help="draw the distributions")


def run(options: argparse.Namespace) -> None:
    """Look at the file and say what is in it.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: for an impossible option, or a file that cannot be read or written.
    """
    from medcap.datasets.inspection.images import read_header
    from medcap.datasets.inspection.statistics import image_statistics, token_statistics
    from medcap.datasets.inspection.survey import survey
    from medcap.files import keep_inputs

    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size} must be at least 1")
    if options.plot is not None and options.plot.suffix != ".svg":
        raise UserError(f"--plot {options.plot} must end in .svg")
    speed = _speed(options)
    files = training_data.open_training_files(options)
    first = files[0]
    if options.json is not None:
        keep_inputs("--json", options.json, *(file.checker.rows.path for file in files))
    if options.plot is not None and len(files) > 1:
        raise UserError("--plot is for one file, and the configuration has several sources: name one before --config")
    _find_prompt_prefix(files)
    surveys = [survey(file.checker, training_data.num_processes(options), read_header, "reading") for file in files]
    sources = [
        {
            "file": str(found.checker.rows.path),
            "rows": found.num_rows,
            "bad_rows": len(found.problems),
            "images": image_statistics(found),
            **({} if (boxes := found.boxes.as_dict()) is None else {"boxes": boxes}),
            **({} if (masks := found.masks.as_dict()) is None else {"masks": masks}),
            **({} if (regions := found.regions.as_dict()) is None else {"regions": regions}),
            "image_size": None if first.vision is None else first.vision.preprocess.image_size,
            "tokens": None if found.checker.tokenizer is None else token_statistics(found),
        }
        for found in surveys
    ]
    findings: dict[str, Any] = {"packing": None, "memory": None, "epoch_seconds": None}
    mixture: list[str] = []
    tokenizer = first.checker.tokenizer
    if tokenizer is not None:
        findings["settings"] = {
            "max_seq_len": first.checker.max_seq_len,
            "num_image_tokens": tokenizer.num_image_tokens,
            **({} if tokenizer.tiles is None else {"most_image_tokens": tokenizer.most_image_tokens}),
            **_batch(options, first),
        }
        plans, mixtures = zip(*(_plan(options, files, surveys, packed) for packed in (True, False)), strict=True)
        mixture = mixtures[0]
        findings["packing"] = [asdict(plan) for plan in plans]
        chosen = next(plan for plan in plans if plan.packed == findings["settings"]["packed"])
        findings["memory"] = _memory(first, options, chosen)
        if speed is not None:
            findings["tokens_per_second"], findings["epoch_seconds"] = speed, chosen.tokens / speed
    print("\n".join(_text(sources, mixture, findings)))
    if len(files) == 1:
        findings = sources[0] | findings
    else:
        findings["sources"] = {file.name: source for file, source in zip(files, sources, strict=True)}
    training_data.write_findings(options.json, findings)
    if options.plot is not None:
        from medcap.commands.stats_plot import write_plot

        write_plot(options.plot, findings)


def _speed(options: argparse.Namespace) -> float | None:
    """Use only tokens per second that were measured; nothing else gives this number."""
    if options.metrics is None:
        if options.tokens_per_second is not None and not 0 < options.tokens_per_second < float("inf"):
            raise UserError(f"--tokens-per-second {options.tokens_per_second:g} must be above 0")
        return options.tokens_per_second
    try:
        lines = options.metrics.read_text(encoding="utf-8").splitlines()
        values = [parse_json(line).get("tokens_per_second") for line in lines]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"--metrics {options.metrics} cannot be read: {error}") from error
    measured = [value for value in values if isinstance(value, int | float) and value > 0]
    if not measured:
        raise UserError(f"--metrics {options.metrics} holds no tokens_per_second: give log/metrics.jsonl of a run")
    return median(measured)


def _batch(options: argparse.Namespace, file: TrainingFile) -> dict[str, Any]:
    """Return what decides the steps of an epoch."""
    cfg = file.cfg
    if cfg is None:
        return {"batch_size": options.batch_size or BATCH_SIZE, "gradient_accumulation_steps": 1, "packed": True}
    return {
        "batch_size": options.batch_size or cfg.batch_size,
        "gradient_accumulation_steps": cfg.gradient_accumulation_steps,
        "packed": bool(cfg.dataset.get("packed", False)),
    }


def _find_prompt_prefix(files: Sequence[TrainingFile]) -> None:
    """Let the samples leave out the words that all of them begin with, as training does."""
    from medcap.data.shared_prefix import find_prompt_prefix
    from medcap.datasets.chat_rows import ChatDataset

    first = files[0]
    tokenizer = first.checker.tokenizer
    if tokenizer is None or (first.cfg is not None and not first.cfg.dataset.get("share_preamble", True)):
        return
    samples: list[Sample] = []
    for of in (file.checker for file in files):
        kept = {"boxes": of.boxes, "examples": of.examples}
        dataset = ChatDataset(
            of.rows, of.reader, tokenizer, of.style, of.label_rules, of.max_seq_len, packed=True, **kept
        )
        samples += dataset.some_samples()
    for file in files:
        file.checker.prompt_prefix = find_prompt_prefix(samples, tokenizer.image_token_id)


def _plan(
    options: argparse.Namespace, files: Sequence[TrainingFile], surveys: Sequence[Survey], packed: bool
) -> tuple[Packing, list[str]]:
    """Plan the first epoch; with the lines that say what it is mixed of."""
    from medcap.datasets.inspection.statistics import mix_surveys, plan_dataset, plan_epoch

    cfg = files[0].cfg
    batch = _batch(options, files[0])
    sizes = (batch["batch_size"], batch["gradient_accumulation_steps"])
    share = True if cfg is None else cfg.dataset.get("share_images", True)
    seed = 0 if cfg is None else cfg.seed
    if cfg is None or len(files) == 1:
        return plan_epoch(surveys[0], *sizes, packed, share, seed), []
    dataset = mix_surveys(surveys, [file.keys for file in files], cfg.dataset.get("epoch_samples"), packed, share)
    return plan_dataset(dataset, surveys, *sizes, seed), ["an epoch of all sources:", dataset.describe()]


def _memory(file: TrainingFile, options: argparse.Namespace, plan: Packing) -> dict[str, Any] | None:
    """Estimate the bytes of a step on one GPU (``training.distributed.memory``); None without a configuration."""
    import torch

    from medcap.checkpoints.build_model import DTYPES
    from medcap.training.distributed.parallelism import estimate_step

    if file.cfg is None or file.vision is None:
        return None
    cfg = file.cfg
    dataset = cfg.dataset | {"max_seq_len": file.checker.max_seq_len}
    cfg = cfg.model_copy(update={"batch_size": options.batch_size or cfg.batch_size, "dataset": dataset})
    dtype = DTYPES.get(cfg.dtype, torch.float32 if cfg.device == "cpu" else torch.bfloat16)
    full_mask = not plan.packed or cfg.device == "cpu"
    found = estimate_step(cfg, file.vision, dtype, plan.most_images, full_mask)
    parts = {name: getattr(found, name) for name in ("trained", "optimizer", "activations", "loss")}
    return {"dtype": str(dtype).removeprefix("torch."), "frozen": found.frozen(), **parts, "total": found.total()}


def _text(sources: Sequence[dict[str, Any]], mixture: Sequence[str], findings: dict[str, Any]) -> list[str]:
    from medcap.datasets.inspection.boxes import box_lines
    from medcap.datasets.inspection.masks import mask_lines, region_lines

    lines = []
    for source in sources:
        bad = source["bad_rows"]
        left_out = f", {bad:,} of which cannot be used (medcap validate names them)" if bad else ""
        lines += [f"{source['file']}: {counted(source['rows'], 'row')}{left_out}", *_image_lines(source)]
        lines += box_lines(source.get("boxes")) + mask_lines(source.get("masks"))
        lines += region_lines(source.get("regions"))
        if source["tokens"] is not None:
            lines += _token_lines(source["tokens"], findings["settings"])
    if findings["packing"] is None:
        return [*lines, "tokens, packing and steps need --tokenizer, or --config"]
    lines += mixture
    lines += [line for plan in findings["packing"] for line in _packing_lines(plan, findings["settings"])]
    return lines + _memory_lines(findings) + _time_lines(findings)


def _image_lines(findings: dict[str, Any]) -> list[str]:
    from medcap.datasets.inspection.lengths import summary

    images = findings["images"]
    a_row = ", ".join(f"{counted(count, 'row')} with {number}" for number, count in images["images_a_row"].items())
    numbers = f"{counted(images['files'], 'file')}, named {counted(images['named'], 'time')}"
    lines = [f"images: {numbers} ({a_row or 'none usable'})"]
    if images["formats"]:
        lines.append("  formats       " + ", ".join(f"{name} {count:,}" for name, count in images["formats"].items()))
        lines += [f"  {side}  {summary(images[side.replace(' ', '_')])}" for side in ("shorter side", "longer side")]
    if images["unreadable"]:
        lines.append(f"  unreadable    {images['unreadable']:,}")
    if findings["image_size"]:
        lines.append(f"  the tower takes {findings['image_size']} x {findings['image_size']} pixels")
    return lines


def _token_lines(tokens: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    from medcap.datasets.inspection.lengths import either, summary

    image = either(settings["num_image_tokens"], settings.get("most_image_tokens"))
    names = ("total", "image", "question", "answer")
    return [
        f"tokens a row, {image} for an image, at most {settings['max_seq_len']:,}:",
        *(f"  {name:<9} {summary(tokens[name])}; {tokens[name].get('total', 0):,} in all" for name in names),
        f"  rows cut  {tokens['rows_cut']:,}",
    ]


def _packing_lines(plan: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    accumulated = settings["gradient_accumulation_steps"]
    times = f" x {accumulated} batches a step" if accumulated > 1 else ""
    steps = f"{plan['steps']:,} steps an epoch at batch_size={settings['batch_size']}{times}"
    saved = f"{plan['saved_by_preamble']:,} tokens saved by the prompt prefix"
    if not plan["packed"]:
        computed = f"{plan['tokens']:,} tokens computed at most: those of one batch share their images; {saved}"
        return [f"not packed: {plan['units']:,} samples, {steps}", f"  {computed}"]
    fill = f"filled to {100 * plan['fill']:.1f} %"
    return [
        f"packed: {counted(plan['units'], 'row')} of {settings['max_seq_len']:,} tokens, {fill}, {steps}",
        f"  {plan['samples']:,} samples in {plan['documents']:,} documents; {plan['images']:,} images encoded an epoch,"
        f" at most {plan['most_images']:,} in a batch",
        f"  {plan['tokens']:,} tokens computed; {plan['saved_by_sharing']:,} saved by sharing images, {saved}",
    ]


def _memory_lines(findings: dict[str, Any]) -> list[str]:
    memory = findings["memory"]
    if memory is None:
        return ["memory of a step: needs --config, for the language model and the tower"]
    names = ("frozen", "trained", "optimizer", "activations", "loss")
    parts = ", ".join(f"{name} {memory[name] / 1e9:.2f}" for name in names)
    return [
        f"memory of a step on one device in {memory['dtype']}, computed: {memory['total'] / 1e9:.2f} GB ({parts}); the"
        " allocator and kernels take some 10 % more"
    ]


def _time_lines(findings: dict[str, Any]) -> list[str]:
    seconds = findings["epoch_seconds"]
    if seconds is None:
        return ["time of an epoch: needs a measured speed, by --metrics RUN/log/metrics.jsonl or --tokens-per-second"]
    kind = "packed" if findings["settings"]["packed"] else "not packed"
    most = "" if findings["settings"]["packed"] else "at most "
    return [
        f"time of an epoch, {kind}, at {findings['tokens_per_second']:,.0f} tokens/s: {most}{seconds / 3600:.2f} hours"
        f" ({seconds:,.0f} s)"
    ]
