"""Adapters of earlier runs as the experts of a new one: find them, and see that they fit one language model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from medcap.checkpoints.frozen_llm import LLMPlan
from medcap.checkpoints.run import find_run_checkpoint
from medcap.checkpoints.vision_files import SavedVision, read_vision_checkpoint
from medcap.errors import UserError
from medcap.models.llm_lora import LanguageModelAdapters
from medcap.models.towers.tensor_files import TensorFiles

_KEY = "llm_lora.experts"
EXPERTS = "experts"


def starts_experts(given: Mapping[str, Any] | None, saved: Mapping[str, Any] | None) -> bool:
    """Return whether experts are to be read from their runs: the configuration names some, and a checkpoint has none.

    Args:
        given: ``llm_lora`` of the configuration.
        saved: that of the checkpoint.
    """
    return given is not None and EXPERTS in given and (saved is None or EXPERTS not in saved)


def as_given(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration says of a component that a checkpoint holds: of experts, their runs alone."""
    if EXPERTS not in saved:
        return dict(saved)
    return {**saved, EXPERTS: [expert["run"] for expert in saved[EXPERTS]]}


class _Part(Protocol):
    @property
    def config(self) -> dict[str, Any]: ...


def refuse_experts(parts: Iterable[_Part]) -> None:
    """Refuse to write experts where a weight has room for one update.

    Args:
        parts: plans of components.

    Raises:
        UserError: if one of them has experts.
    """
    for part in parts:
        if EXPERTS in part.config:
            names = ", ".join(expert["run"] for expert in part.config[EXPERTS])
            raise UserError(
                f"llm_lora: this run chooses among experts ({names}), so no single weight holds its updates: use it as"
                " it is with medcap chat, web and serve, or write the run of one expert"
            )


def plan_experts(
    given: Mapping[str, Any], llm: LLMPlan, dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, TensorFiles]]:
    """Find the adapters of the runs that a configuration names; of the weights only the headers are read.

    Args:
        given: ``llm_lora`` of the configuration: ``_component_`` and its arguments.
        llm: language model of the new run.
        dtype: dtype of the new run, whose fingerprints are computed first.

    Returns:
        The component's configuration with the options of each expert, and the weights of each, by the name of the
        part that they belong to.

    Raises:
        UserError: if fewer than two runs are named, one is missing, has no adapters, or was trained on another language
            model.
    """
    runs = given[EXPERTS]
    if len(runs) < 2 or not all(isinstance(run, str) for run in runs):
        raise UserError(f"{_KEY}={runs}: give at least two runs with llm_lora, such as [results/words, results/boxes]")
    experts = [_open(run) for run in runs]
    known: dict[torch.dtype, str] = {}
    for run, saved in zip(runs, experts, strict=True):
        _check_base(run, saved, llm, dtype, known)
    options = [
        {"run": run} | {key: value for key, value in saved.configs[_name()].items() if key != "_component_"}
        for run, saved in zip(runs, experts, strict=True)
    ]
    parts = {f"{EXPERTS}.{number}": saved.tensors[_name()] for number, saved in enumerate(experts)}
    return {**given, EXPERTS: options}, parts


def _name() -> str:
    return LanguageModelAdapters.name


def _open(run: str) -> SavedVision:
    if not Path(run).expanduser().exists():
        raise UserError(f"{_KEY}: there is no run {run}; give the output_dir of a training run with llm_lora")
    try:
        saved = read_vision_checkpoint(find_run_checkpoint(run))
    except UserError as error:
        raise UserError(f"{_KEY}: {error}") from error
    if _name() not in saved.configs:
        raise UserError(f"{_KEY}: {run} has no adapters; name a run that was trained with llm_lora")
    if EXPERTS in saved.configs[_name()]:
        raise UserError(f"{_KEY}: {run} chooses among experts itself; name the runs of its experts")
    return saved


def _check_base(run: str, saved: SavedVision, llm: LLMPlan, dtype: torch.dtype, known: dict[torch.dtype, str]) -> None:
    """See that a run was trained on this language model.

    Args:
        run: the run.
        saved: its checkpoint.
        llm: language model of the new run.
        dtype: dtype of the new run.
        known: fingerprints of the language model by dtype; gets those that are computed.
    """
    trained_on = saved.llm.get("fingerprint")
    fits = saved.llm.get("dim") == llm.dim
    if fits and trained_on is not None:
        # A fingerprint is that of the weights in the dtype of its run.
        for kind in (dtype, torch.bfloat16, torch.float32):
            if kind not in known:
                known[kind] = llm.fingerprint(kind)
            if trained_on == known[kind]:
                return
        fits = False
    if not fits:
        raise UserError(
            f"{_KEY}: {run} was trained on another language model ({saved.llm.get('component', 'unnamed')}) than the"
            f" one in {llm.files.folder}: all experts belong to one; name it in checkpointer.checkpoint_dir, or leave"
            " the run out"
        )
