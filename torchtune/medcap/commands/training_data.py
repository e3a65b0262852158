"""What commands that look at training files have in common: the options that training has, or its configuration."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medcap.data.boxes.notations import NOTATIONS
from medcap.errors import UserError

if TYPE_CHECKING:
    from medcap.checkpoints.keys import ModelConfiguration
    from medcap.checkpoints.vision import VisionPlan
    from medcap.data.chat_tokenizer import ChatTokenizer
    from medcap.datasets.inspection.rows import RowChecker
    from medcap.datasets.source_keys import SourceArguments
    from medcap.training.keys import TrainingConfiguration

# BiomedCLIP's patches; chat_dataset's own default.
NUM_IMAGE_TOKENS, MAX_SEQ_LEN = 196, 1024


@dataclass
class TrainingFile:
    """A training file, opened as training opens it.

    Attributes:
        checker: reads its rows.
        keys: what is said of this source alone.
        name: how messages call it beside other sources.
        cfg: the configuration, if one was named.
        vision: its tower and projector, without weights.
    """

    checker: RowChecker
    keys: SourceArguments
    name: str
    cfg: TrainingConfiguration | None = None
    vision: VisionPlan | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command's parser."""
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="JSON or JSONL, or tar shards, as dataset.source (what --config names)"
    )
    parser.add_argument(
        "--image-root",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="as dataset.image_roots: the folders and tar files that images may lie in"
        " (the file's own folder and the working one)",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar=("CONFIG", "key=value"),
        help="take file, tokenizer, tower and all settings from a training configuration, as tune run does",
    )
    parser.add_argument(
        "--tokenizer", metavar="PATH", help="Llama 3's tokenizer.model, or the folder of a Hugging Face model"
    )
    parser.add_argument(
        "--num-image-tokens", type=int, metavar="K", help=f"tokens of an image ({NUM_IMAGE_TOKENS}, BiomedCLIP's)"
    )
    parser.add_argument("--max-seq-len", type=int, metavar="N", help=f"tokens that a row keeps ({MAX_SEQ_LEN})")
    parser.add_argument("--conversation-style", metavar="STYLE", help="layout of the rows (auto)")
    parser.add_argument("--box-format", choices=NOTATIONS, help="notation of the boxes in texts (told by their marks)")
    parser.add_argument("--max-image-pixels", type=int, metavar="N", help="of an image, refused above (50000000)")
    parser.add_argument("--processes", type=int, metavar="N", help="that work at it (one a processor)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything that was found to a JSON file")


def open_training_files(options: argparse.Namespace) -> list[TrainingFile]:
    """Open the file that the options name, or all sources of the configuration.

    Args:
        options: what :func:`add_arguments` adds.

    Raises:
        UserError: for an impossible option, or a file that cannot be read.
    """
    from medcap.data.boxes.style import box_style
    from medcap.data.images.reader import MAX_PIXELS
    from medcap.data.images.tiles import refuse_fit
    from medcap.data.images.view_keys import read_view
    from medcap.data.labels_and_image_tokens import LabelRules
    from medcap.data.row_examples import MODES
    from medcap.data.row_layouts import STYLES
    from medcap.datasets.chat import check_room_for_image
    from medcap.datasets.inspection.rows import RowChecker
    from medcap.datasets.rows.source import open_source
    from medcap.datasets.source_keys import check_sources, source_names

    for name in ("num_image_tokens", "max_seq_len", "max_image_pixels", "processes"):
        if (getattr(options, name) or 1) < 1 or getattr(options, name) == 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)} must be at least 1")
    cfg = _config(options)
    settings = {} if cfg is None else cfg.dataset
    sources = None if options.file else settings.get("sources")
    source = options.file or settings.get("source")
    if not source and not sources:
        raise UserError("name the file to look at, or a training configuration by --config")
    vision = None if cfg is None else _plan_vision(cfg)
    tokenizer = _tokenizer(options, cfg, vision)
    max_seq_len = options.max_seq_len or settings.get("max_seq_len", MAX_SEQ_LEN)
    if tokenizer is not None:
        check_room_for_image(max_seq_len, tokenizer)
    max_pixels = options.max_image_pixels or settings.get("max_image_pixels", MAX_PIXELS)
    given = {} if options.box_format is None else {"box_format": options.box_format}
    opened = []
    keys = check_sources(source, sources)
    for own, name in zip(keys, source_names(keys), strict=True):
        known = settings | own.model_dump(exclude_none=True) | given
        style = options.conversation_style or known.get("conversation_style", "auto")
        if style not in STYLES:
            raise UserError(f"--conversation-style {style} is unknown: use one of {', '.join(STYLES)}")
        rows, reader = open_source(own.source, options.image_root or known.get("image_roots"), max_pixels)
        rules = LabelRules(
            *(bool(known.get(name)) for name in ("train_on_input", "train_on_header", "mask_after_image"))
        )
        view = read_view(own.view or {}, read_view(settings.get("view") or {}, prefix="dataset.view."))
        if tokenizer is not None:
            refuse_fit(view.fit, tokenizer.tiles, "dataset.view.fit")
        written = box_style(known | {"sources": None}, None if vision is None else vision.preprocess.frame)
        examples = known.get("examples") or MODES[0]
        checker = RowChecker(
            rows, reader, style, tokenizer, max_seq_len, rules, view=view, boxes=written, examples=examples
        )
        checker.regions_as_words = cfg is None
        opened.append(TrainingFile(checker, own, name, cfg, vision))
    return opened


def num_processes(options: argparse.Namespace) -> int:
    """Return how many processes work at it."""
    from medcap.workers import num_processors

    return options.processes or num_processors()


def write_findings(path: Path | None, found: object) -> None:
    """Write what ``--json`` asks for.

    Raises:
        UserError: if the file cannot be written.
    """
    from medcap.files import plain, write_json

    if path is None:
        return
    try:
        write_json(path, plain(found))
    except OSError as error:
        raise UserError(f"--json {path} cannot be written: {error.strerror}") from error


def _config(options: argparse.Namespace) -> TrainingConfiguration | None:
    from medcap.entry_point import read_arguments
    from medcap.training.keys import DistributedConfiguration

    if not options.config:
        return None
    name, *overrides = options.config
    stray = next((word for word in overrides if "=" not in word and not word.startswith("~")), None)
    if stray is not None:
        raise UserError(f"--config takes key=value and ~key after the name, not {stray}: name the file before --config")
    return read_arguments(["--config", name, *overrides], DistributedConfiguration)


def _plan_vision(cfg: TrainingConfiguration) -> VisionPlan | None:
    """Return the tower and the projector, without reading or fetching weights that a name alone stands for."""
    from medcap.checkpoints.build_model import EarlierRun
    from medcap.checkpoints.llm_architecture import build_decoder, with_files
    from medcap.checkpoints.vision import plan_vision, plan_vision_of_run

    vision = cfg.vision
    llm = with_files(cfg.llm, cfg.checkpointer.checkpoint_dir)
    if vision is None and cfg.vision_checkpoint is None and cfg.init_from is None:
        raise UserError(
            "vision is missing: add vision=biomedclip (or siglip, clip, a folder), vision_checkpoint=..., or"
            " init_from=..."
        )
    llm_dim = build_decoder(llm).tok_embeddings.embedding_dim
    # A stage's data may be looked at before the stage that it starts from has run.
    if cfg.init_from is not None and (vision is None or Path(cfg.init_from).expanduser().exists()):
        start = EarlierRun(cfg.init_from)
        projector = cfg.projector if "projector" in cfg.model_fields_set else None
        return plan_vision_of_run(start.open(), str(start), vision, projector, llm_dim)
    if cfg.vision_checkpoint is None and isinstance(vision, str) and not Path(vision).exists():
        vision = {"name": vision, **({} if vision == "tiny" else {"pretrained": False})}
    return plan_vision(vision, cfg.vision_checkpoint, cfg.projector, llm_dim)


def _tokenizer(
    options: argparse.Namespace, cfg: ModelConfiguration | None, vision: VisionPlan | None
) -> ChatTokenizer | None:
    from medcap.checkpoints.build_model import added_tokens, plan_further
    from medcap.checkpoints.llm_architecture import build_decoder, with_files
    from medcap.data.chat_tokenizer import ChatTokenizer
    from medcap.instantiate import build
    from medcap.models.template_tokenizer import tokenizer_of
    from medcap.models.tokenizers import check_tokenizer_files

    if options.tokenizer is not None:
        tokenizer = tokenizer_of(options.tokenizer)
    elif cfg is not None:
        check_tokenizer_files(cfg.tokenizer)
        tokenizer = build(cfg.tokenizer, key="tokenizer")
    else:
        return None
    if cfg is None or vision is None:
        return ChatTokenizer(tokenizer, options.num_image_tokens or NUM_IMAGE_TOKENS)
    table = build_decoder(with_files(cfg.llm, cfg.checkpointer.checkpoint_dir)).tok_embeddings
    added = added_tokens(plan_further(cfg, vision), table.num_embeddings, vision)
    return ChatTokenizer(
        tokenizer, options.num_image_tokens or vision.num_image_tokens, added, vision.preprocess.tiling
    )
