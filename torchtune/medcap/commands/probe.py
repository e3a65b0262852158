"""``medcap probe RUN``: what an encoder's features are worth to a linear classifier, before and after tuning."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from medcap.commands.arguments import add_image_root, positive, seed
from medcap.errors import UserError

FOLDER = "probe"
HELP = "what an encoder's features are worth to a linear classifier, before and after tuning"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap probe``.
    """
    kinds = "CSV or JSONL file, folder of class folders, or folder of medcap prepare phantom"
    parser.add_argument("encoder", metavar="RUN", help="a run's folder, a vision checkpoint, or what vision= takes")
    parser.add_argument("--train", type=Path, required=True, metavar="SOURCE", help=f"labelled images: {kinds}")
    parser.add_argument("--test", type=Path, metavar="SOURCE", help="other images; without it, a part of those")
    parser.add_argument("--test-fraction", type=_fraction, default=0.2, metavar="F", help="size of that part (0.2)")
    parser.add_argument("--validation-fraction", type=_fraction, default=0.2, metavar="F", help="of the training (0.2)")
    parser.add_argument("--image-column", default="image", metavar="NAME", help="of a table: the image's path (image)")
    parser.add_argument(
        "--label-column", nargs="+", default=["label"], metavar="NAME", help="of a table: labels, a target each (label)"
    )
    parser.add_argument(
        "--label-separator", metavar="TEXT", help="between several labels of one cell; each becomes a target, yes or no"
    )
    parser.add_argument(
        "--group-column", metavar="NAME", help="of a table: the patient; no patient is on both sides of a division"
    )
    parser.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="what to predict, may be repeated (everything)"
    )
    add_image_root(parser)
    parser.add_argument("--features", choices=("patches", "pooled", "projected"), help="(what the projector takes)")
    parser.add_argument(
        "--before",
        metavar="NAME",
        help="the encoder to compare with: as vision= takes it, a checkpoint, or none (what the run began from)",
    )
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images encoded together (64)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    parser.add_argument("--seed", type=seed, default=0, help="of the divisions and the classifier (0)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the results go (RUN/probe)")


def run(options: argparse.Namespace) -> None:
    """Probe, print the table and write the files.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if the run, the images or the labels cannot be used.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("medcap probe needs scikit-learn: pip install 'medcap[probe]'")
    out = options.out or _own_folder(options.encoder)
    from medcap.checkpoints.build_model import choose_device
    from medcap.probe.examples import TableColumns
    from medcap.probe.report import text, write
    from medcap.probe.run import ProbeOptions, probe

    columns = TableColumns(
        options.image_column, options.label_column, options.group_column, options.label_separator or None
    )
    report = probe(
        options.encoder,
        ProbeOptions(
            train=options.train,
            test=options.test,
            test_fraction=options.test_fraction,
            validation_fraction=options.validation_fraction,
            columns=columns,
            targets=options.target,
            image_roots=options.image_root,
            features=options.features,
            before=options.before,
            seed=options.seed,
            batch_size=options.batch_size,
            device=choose_device(options.device),
        ),
    )
    print(text(report))
    write(report, out)
    print(f"written: {out}/metrics.json, predictions.jsonl, report.html")


def _own_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if not (folder / "config.yaml").is_file() or (folder / "config.json").is_file():
        raise UserError(f"{name} is no run's folder, so say where the results go: --out FOLDER")
    return folder / FOLDER


def _fraction(value: str) -> float:
    try:
        fraction = float(value)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number above 0 and below 1")
    return fraction
