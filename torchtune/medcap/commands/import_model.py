"""``medcap import SOURCE --out DIR``: a model from elsewhere as a run of ours."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "make a run of a LLaVA folder, medcap 2024's meta_model.pt, a mm_projector.bin or a folder of adapters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap import``.
    """
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a LlavaForConditionalGeneration folder (ours or llava-hf's), a folder of LLaVA's own format,"
        " meta_model_*.pt, mm_projector.bin, or a PEFT folder with non_lora_trainables.bin beside its adapters; pickles"
        " go through torch's weights-only loader",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; new or empty")
    parser.add_argument(
        "--vision", metavar="V", help="the tower, where the source does not hold it: a folder, or biomedclip, clip, ..."
    )
    parser.add_argument(
        "--select-layer",
        type=int,
        metavar="N",
        help="the tower's hidden state that the projector reads: -1 is its last layer, -2 the one before (what the"
        " source says; -2 for a mm_projector.bin)",
    )
    parser.add_argument("--llm", type=Path, metavar="DIR", help="language model's folder, for a source without one")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.model, if the source has none")
    parser.add_argument(
        "--adapters",
        type=Path,
        metavar="DIR",
        help="adapters of the source's language model: a PEFT folder, or torchtune's adapter_model.pt with its"
        " adapter_config.json (those in SOURCE, or in SOURCE/adapter as medcap export writes them)",
    )


def run(options: argparse.Namespace) -> None:
    """Import and say where.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if the source cannot become a run.
    """
    from medcap.importing.sources import ImportOptions, import_model

    chosen = ImportOptions(options.vision, options.select_layer, options.llm, options.tokenizer, options.adapters)
    for notice in import_model(options.source, options.out, chosen):
        print(f"note: {notice}", file=sys.stderr)
    print(f"wrote {options.out}")
