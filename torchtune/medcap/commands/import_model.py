"""``medcap import SOURCE --out DIR``: a model from elsewhere as a run of ours."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "make a run of a LLaVA folder, medcap 2024's meta_model.pt or a mm_projector.bin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap import``.
    """
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a LlavaForConditionalGeneration folder (ours or llava-hf's), a folder of LLaVA's own format,"
        " meta_model_*.pt, or mm_projector.bin; pickles go through torch's weights-only loader",
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


def run(options: argparse.Namespace) -> None:
    """Import and say where.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if the source cannot become a run.
    """
    from medcap.importing.sources import ImportOptions, import_model

    chosen = ImportOptions(options.vision, options.select_layer, options.llm, options.tokenizer)
    for notice in import_model(options.source, options.out, chosen):
        print(f"note: {notice}", file=sys.stderr)
    print(f"wrote {options.out}")
