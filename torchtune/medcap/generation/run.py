"""From a trained run's folder to a generator: five lines of Python, the chat and the server begin here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcap.checkpoints.build_model import ModelPlan, choose_device, choose_dtype, open_model, plan_model
from medcap.checkpoints.run import fit_of_run, read_dataset_keys, read_run
from medcap.compiler import check_compiler
from medcap.data.boxes.style import box_style
from medcap.data.images.reader import ImageReader
from medcap.data.images.roots import LimitKeys
from medcap.errors import UserError
from medcap.generation.decoding.captured_steps import check_capture_device
from medcap.generation.generator import Generator
from medcap.models.decoders.transformers_model import Decoder
from medcap.models.mask_decoders.base import MaskDecoder
from medcap.models.mask_decoders.sam_files import SamFolder, open_sam_folder
from medcap.models.mask_decoders.sam_model import check_sam, read_sam

# Relative paths from the working directory, absolute ones anywhere: callers from Python choose the files.
ANYWHERE = (".", "/")


def open_run(
    run: str | Path,
    overrides: Sequence[str] = (),
    image_roots: Sequence[str | Path] = ANYWHERE,
    **options: Any,
) -> Generator:
    """Load a trained run.

    Args:
        run: the run's folder, or one of its checkpoint folders.
        overrides: ``key=value`` of the model keys, such as ``device=cpu`` or ``llm_weights=int8``.
        image_roots: folders that requests may name images in.
        options: ``mask_from_boxes`` of :func:`open_runs`, and options of :class:`Generator`, such as ``batch_size`` and
            ``max_seq_len``.

    Returns:
        A generator over the run's newest complete checkpoint.

    Raises:
        UserError: if the run or a file that it names is missing, or does not fit; before weights are read.

    Example:
        >>> generator = open_run("results/mine")
        >>> request = question_request("chest.png", "Is there a mass?")
        >>> generator.generate([request], Sampling(max_new_tokens=64))[0].text
        'Yes, in the right lower lobe.'
    """
    return open_runs([run], overrides, image_roots, **options)[0]


def open_runs(
    runs: Sequence[str | Path],
    overrides: Sequence[str] = (),
    image_roots: Sequence[str | Path] = ANYWHERE,
    mask_from_boxes: str | Path | None = None,
    **options: Any,
) -> list[Generator]:
    """Load several runs; runs trained with the same language model share one copy of it.

    Args:
        runs: runs as for :func:`open_run`.
        overrides: overrides for all runs.
        image_roots: image roots for all runs.
        mask_from_boxes: folder of a SAM that gives the masks of an answer's boxes; None gives none.
        options: options for all runs.

    Returns:
        A generator for each.

    Raises:
        UserError: in the cases of :func:`open_run`; all runs are checked before the weights of any are read.
    """
    configs = [read_run(run, overrides) for run in runs]
    plans = [plan_model(cfg) for cfg in configs]
    for device in map(choose_device, dict.fromkeys(cfg.device for cfg in configs)):
        if options.get("cuda_graphs"):
            check_capture_device(device)
        if options.get("compile"):
            check_compiler(device)
    folder = None if mask_from_boxes is None else plan_box_outlines(mask_from_boxes, plans)
    reader = ImageReader(image_roots, keys=LimitKeys("image_roots", None))
    generators: list[Generator] = []
    decoders: dict[Any, Decoder] = {}
    for run, cfg, plan in zip(runs, configs, plans, strict=True):
        device = choose_device(cfg.device)
        dataset = read_dataset_keys(run)
        preprocess = replace(plan.vision.preprocess, usual_fit=fit_of_run(dataset))
        style = box_style(dataset, preprocess.frame)
        # Runs of one language model are decoded together, and their boxes read in one way.
        notation = None if folder is None else repr(style.fingerprint)
        key = (_same_llm(plan), device, choose_dtype(cfg.dtype, device), notation)
        opened = open_model(cfg, plan, decoders.get(key))
        decoders[key] = opened.model.decoder
        if folder is not None:
            options["sam"] = read_sam(folder, single=False)
        generators.append(Generator(opened.model, opened.tokenizer, preprocess, reader, box_style=style, **options))
    return generators


def plan_box_outlines(path: str | Path, plans: Sequence[ModelPlan]) -> SamFolder:
    """Check a SAM that is to give the masks of answers' boxes, without reading its weights.

    Args:
        path: its folder.
        plans: the models that answer.

    Raises:
        UserError: if the folder cannot be read, or a model gives masks itself.
    """
    if any(MaskDecoder.name in plan.components for plan in plans):
        raise UserError(
            f"mask_from_boxes={path}: the run has a {MaskDecoder.name}, which gives the masks; leave mask_from_boxes"
            f" out, or the decoder by without=[{MaskDecoder.name}]"
        )
    folder = open_sam_folder(path, "mask_from_boxes")
    check_sam(folder)
    return folder


def _same_llm(plan: ModelPlan) -> str:
    """Return what two plans have in common that can share a copy of the language model: weights and precision."""
    files = [str(path.resolve()) for path in plan.llm.files.paths]
    own = [id(plan) for component in plan.further if component.kind.changes_language_model]
    return repr((sorted(plan.llm.llm.items()), files, plan.llm.llm_weights, own))
