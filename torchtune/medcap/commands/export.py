"""``medcap export RUN --out DIR``: a trained run in a format that others read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medcap.errors import UserError

HELP = "write a run as a Hugging Face LLaVA folder, its encoder alone, or medcap 2024's meta_model.pt"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap export``.
    """
    parser.add_argument(
        "trained_run", metavar="RUN", help="a run's folder, or one of its checkpoint folders for that step"
    )
    parser.add_argument(
        "--format",
        default="hf",
        metavar="F",
        help="hf: a LlavaForConditionalGeneration folder, for transformers and engines that read its format (clip,"
        " siglip and biomedclip towers with the mlp projector over a Llama 3); vision: the encoder alone, as its own"
        " library (transformers, open_clip, timm) loads it; medcap: meta_model.pt (pooled_mlp) (hf)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; new or empty")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="of the stored weights. auto: the language model's bytes as its files have them, and the vision side,"
        " which trains in fp32, in that dtype too (hf), or bf16 (medcap), or fp32 (vision); fp32 keeps every bit of the"
        " vision side and doubles the folder of a bf16 model",
    )
    parser.add_argument("--shard-size", default="5GB", metavar="SIZE", help="most of one weight file, as 500MB (5GB)")
    parser.add_argument(
        "--base-model", metavar="OWNER/NAME", help="the language model's name on the hub, for the model card"
    )
    parser.add_argument(
        "--text-from",
        type=Path,
        metavar="DIR",
        help="with --format vision: the open_clip folder that the encoder was tuned from, to write a whole model",
    )
    parser.add_argument(
        "--adapters",
        default="merge",
        choices=("merge", "apart"),
        help="with --format hf, of a run with llm_lora: merge them into the language model's weights, or write them"
        " apart, in DIR/adapter, as PEFT and serving engines load them (merge)",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="model keys, such as checkpointer.checkpoint_dir=... where the language model lies elsewhere now",
    )


def run(options: argparse.Namespace) -> None:
    """Export and say where.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if the run cannot be exported so.
    """
    shard_bytes = parse_size(options.shard_size)
    from medcap.export.formats import ExportOptions, export_run

    chosen = ExportOptions(options.dtype, shard_bytes, options.base_model, options.text_from, options.adapters)
    for notice in export_run(options.trained_run, options.out, options.format, options.overrides, chosen):
        print(f"note: {notice}", file=sys.stderr)
    print(f"wrote {options.out} ({options.format})")


def parse_size(text: str) -> int:
    """Bytes of a size such as ``5GB``.

    Raises:
        UserError: for anything else.
    """
    number, unit = text[:-2], text[-2:].upper()
    try:
        size = int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise UserError(f"--shard-size {text} is no size: write it as 500MB or 5GB")
    return size
