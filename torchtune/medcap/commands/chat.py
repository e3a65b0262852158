"""``medcap chat RUN``: talk to a trained run in the terminal."""

from __future__ import annotations

import argparse

from medcap.commands.arguments import (
    add_cuda_graphs,
    add_without,
    model_overrides,
    positive,
    refuse_options_as_keys,
    seed,
    take_mask_from_boxes,
)

HELP = "talk to a trained run in the terminal, with images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap chat``.
    """
    parser.add_argument("model", metavar="RUN", help="folder of a training run, or one of its checkpoint folders")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="of the model, such as device=cpu; mask_from_boxes=FOLDER has a SAM outline the boxes of answers",
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="FILE",
        help="show this first, with the words that /image takes; may repeat",
    )
    add_without(parser)
    parser.add_argument("--system", default="", metavar="TEXT", help="system text before all turns")
    parser.add_argument(
        "--alone", action="store_true", help="each question without the turns before it, for models trained so"
    )
    parser.add_argument("--max-new-tokens", type=positive, default=512, metavar="N", help="of one answer (512)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest words (0)")
    parser.add_argument("--top-k", type=positive, metavar="K", help="sample among the K likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="sample among the likeliest tokens of probability P")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of sampling (0)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the decoding step, as a GPU does by itself: faster words on a CPU, after a minute of compiling;"
        " needs a C++ compiler",
    )
    add_cuda_graphs(parser)


def run(options: argparse.Namespace) -> None:
    """Load the run and talk until the end of the input.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if the run, an image or a setting is not usable.
    """
    from medcap.chat.terminal import Chat
    from medcap.generation.request import Sampling
    from medcap.generation.run import open_run

    sampling = Sampling(options.max_new_tokens, options.temperature, options.top_k, options.top_p, options.seed)
    chat = Chat(sampling, options.system, options.alone)
    for image in options.image:
        chat.show(image)
    refuse_options_as_keys(options.overrides, options)
    overrides, sam = take_mask_from_boxes(model_overrides(options))
    # One answer at a time: a compiled step computes all the rows that there could be.
    compiled = {"compile": True, "batch_size": 1} if options.compile else {}
    if options.cuda_graphs:
        compiled |= {"cuda_graphs": True, "batch_size": 1}
    chat.talk(open_run(options.model, overrides, progress=False, mask_from_boxes=sam, **compiled))
