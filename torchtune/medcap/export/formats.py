"""The formats of ``medcap export``: a name and a function that fills an empty folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from medcap.checkpoints.atomic import atomic_folder
from medcap.checkpoints.build_model import plan_model
from medcap.checkpoints.experts import refuse_experts
from medcap.checkpoints.keys import ModelConfiguration
from medcap.checkpoints.llm_architecture import build_decoder, describe
from medcap.checkpoints.run import checkpoint_of, read_run, run_root
from medcap.checkpoints.vision import VisionPlan, plan_vision
from medcap.checkpoints.vision_files import read_vision_checkpoint
from medcap.errors import UserError
from medcap.export.adapter_folder import APART, FOLDER, MERGED, write_adapter
from medcap.export.llava.folder import check_llava, write_llava
from medcap.export.model_card import write_model_card
from medcap.export.parts import KINDS, write_parts
from medcap.export.run_facts import read_facts
from medcap.export.vision_folder import write_vision_folder
from medcap.legacy.meta_model import write_meta_model
from medcap.models.component_registry import further_components
from medcap.models.llama3_tokenizer_file import tiktoken_file
from medcap.models.llm_lora import LanguageModelAdapters

DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GIGABYTE = 10**9


@dataclass(frozen=True)
class ExportOptions:
    """What holds for every format.

    Attributes:
        dtype: dtype of the stored weights, one of ``DTYPES``; "auto" keeps what the format says.
        shard_bytes: most bytes of a weight file.
        base_model: the language model's name on the hub, for the model card.
        text_from: folder of the open_clip model that an encoder alone was tuned from, for its text half.
        adapters: ``merge`` them into the language model's weights, or write them ``apart`` in PEFT's layout.
    """

    dtype: str = "auto"
    shard_bytes: int = 5 * GIGABYTE
    base_model: str | None = None
    text_from: Path | None = None
    adapters: str = "merge"


def export_run(
    run: str | Path,
    out: str | Path,
    format: str = "hf",
    overrides: Sequence[str] = (),
    options: ExportOptions | None = None,
) -> list[str]:
    """Write a run in another format; the folder appears whole, with its model card, or not at all.

    Args:
        run: its folder, or one of its checkpoint folders.
        out: the folder to write; it must not exist, or be empty.
        format: one of ``FORMATS``.
        overrides: ``key=value`` of the model keys, as for ``read_run``.
        options: see :class:`ExportOptions`.

    Returns:
        Lines that the user should see.

    Raises:
        UserError: if the folder holds something, the run cannot be read, or the format has no place for its model.
    """
    options = options or ExportOptions()
    if format not in FORMATS:
        raise UserError(f"--format {format} is unknown: use one of {', '.join(FORMATS)}")
    target = Path(out).expanduser()
    check_empty(target)
    cfg = read_run(run, overrides)
    if options.text_from is not None and format != "vision":
        raise UserError(f"--text-from {options.text_from} goes with --format vision only: leave it out")
    facts = read_facts(run_root(run), cfg, options.base_model)
    with atomic_folder(target, marked=False) as folder:
        notices = FORMATS[format](cfg, folder, options)
        write_model_card(folder, facts, format, notices)
    return notices


def check_empty(folder: Path) -> None:
    """See that nothing would be overwritten.

    Raises:
        UserError: if there is a file of this name, or a folder with something in it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out {folder} exists already: remove it, or name another folder")


def _hugging_face(cfg: ModelConfiguration, folder: Path, options: ExportOptions) -> list[str]:
    plan = plan_model(cfg)
    others = [
        part.name for part in plan.further if not (part.kind.changes_language_model or issubclass(part.kind, KINDS))
    ]
    _check_components("hf", others)
    adapters = [part for part in plan.further if issubclass(part.kind, LanguageModelAdapters)]
    refuse_experts(adapters)
    check_llava(plan)
    apart = options.adapters == "apart"
    if apart and not adapters:
        raise UserError("--adapters apart: the run has no adapters; leave it out")
    with tiktoken_file(cfg.tokenizer["path"]) as tokenizer_file:
        # What changes the language model is in its weights; the rest is beside them, or refused above.
        language = [part for part in plan.further if part.kind.changes_language_model]
        written = replace(plan, further=[part for part in language if not apart or part not in adapters])
        write_llava(folder, written, tokenizer_file, DTYPES[options.dtype], options.shard_bytes)
    notices = [*plan.vision.notices, *write_parts(folder, plan)]
    if apart:
        shape = describe(build_decoder(plan.llm.llm))
        for component in adapters:
            state = component.build(plan).state()
            write_adapter(folder / FOLDER, state.config, state.tensors, shape, options.base_model)
        notices.append(APART)
    if plan.llm.llm_weights != "bf16":
        notices.append(
            f"the run saw through a language model in {plan.llm.llm_weights}, the export holds its original weights:"
            " answers may differ a little"
        )
    if adapters and not apart:
        notices.append(MERGED)
    if plan.tokenizer.added is not None:
        count = len(plan.tokenizer.added.words)
        notices.append(
            f"the embedding and output tables have {count} more rows than the original ones: the added words"
        )
    return notices


def _medcap(cfg: ModelConfiguration, folder: Path, options: ExportOptions) -> list[str]:
    plan = _vision_side(cfg)
    assert plan.saved is not None, "the run's own checkpoint"
    _check_components("medcap", further_components(plan.saved.configs))
    return [*plan.notices, *write_meta_model(folder, plan, DTYPES[options.dtype])]


def _vision(cfg: ModelConfiguration, folder: Path, options: ExportOptions) -> list[str]:
    if options.dtype not in ("auto", "fp32"):
        raise UserError(
            f"--dtype {options.dtype}: --format vision writes fp32, as the encoder was trained; leave it out"
        )
    plan = _vision_side(cfg)
    notices = [*plan.notices, *write_vision_folder(plan.build()[0], folder, options.text_from)]
    if plan.preprocess.tiles:
        notices.append("the run cut images into tiles; whoever loads this encoder shows it the pictures of an image")
    return notices


def _check_components(format: str, further: Sequence[str]) -> None:
    """Refuse a component that would be left out of an export without a word."""
    if further:
        raise UserError(
            f"--format {format}: the run has the component {further[0]}, which this format has no place for"
            + (f"; without=[{further[0]}] leaves it out" if format == "hf" else "")
        )


def _vision_side(cfg: ModelConfiguration) -> VisionPlan:
    """Tower and projector of a run, whose language model need not be there."""
    saved = read_vision_checkpoint(checkpoint_of(cfg))
    return plan_vision(None, cfg.vision_checkpoint, saved.projector_config, saved.llm["dim"])


FORMATS: dict[str, Callable[[ModelConfiguration, Path, ExportOptions], list[str]]] = {
    "hf": _hugging_face,
    "vision": _vision,
    "medcap": _medcap,
}
