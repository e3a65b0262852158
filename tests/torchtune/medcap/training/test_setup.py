import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.training.keys import TrainingConfiguration
from medcap.training.setup import (
    checkpointed_layers,
    compiles,
    seed_everything,
    speed_notes,
    wants_meta_model,
)


def test_a_seed_fixes_every_generator():
    drawn = []
    for seed in (3, 3, 4):
        seed_everything(seed)
        drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert drawn[0] == drawn[1]
    assert all(one != other for one, other in zip(drawn[0], drawn[2], strict=True))


@pytest.mark.parametrize(
    ("wanted", "projector", "meant"),
    [
        (False, "pooled_mlp", False),
        (True, "pooled_mlp", True),
        ("auto", "pooled_mlp", True),
        ("auto", "mlp", False),
        (False, "mlp", False),
    ],
)
def test_medcaps_file_is_written_where_it_can_be(wanted, projector, meant):
    assert wants_meta_model(wanted, plan_of(projector)) is meant


def test_medcaps_file_of_another_projector_is_refused():
    with pytest.raises(UserError, match="save_meta_model=true: medcap 2024's file can only hold"):
        wants_meta_model(True, plan_of("mlp"))


def test_medcaps_file_cannot_say_tiles():
    assert not wants_meta_model("auto", plan_of("pooled_mlp", tiles=2))
    with pytest.raises(UserError, match=r"save_meta_model=true: medcap 2024's file cannot say vision\.tiles"):
        wants_meta_model(True, plan_of("pooled_mlp", tiles=2))


def plan_of(projector, tiles=0):
    vision = SimpleNamespace(
        projector_config={"_component_": f"medcap.models.{projector}"},
        preprocess=Preprocess(8, tiles=tiles),
        llm={"fingerprint": None},
        notices=[],
    )
    return SimpleNamespace(vision=vision, llm=SimpleNamespace(dim=16))


@pytest.mark.parametrize(
    ("checkpointing", "budget", "expected"),
    [(False, 1.0, 0), (False, 0.5, 4), (False, 0, 8), (True, 1.0, 8), (True, 0, 8)],
)
def test_a_memory_budget_says_how_many_layers_are_computed_again(checkpointing, budget, expected):
    cfg = {"enable_activation_checkpointing": checkpointing, "activation_memory_budget": budget}
    assert checkpointed_layers(TrainingConfiguration.model_construct(**cfg), 8) == expected


@pytest.mark.parametrize(("checkpointing", "budget", "reason"), [(False, 1.5, "from 0 to 1"), (True, 0.5, "only one")])
def test_an_impossible_memory_budget_is_an_error(checkpointing, budget, reason):
    cfg = {"enable_activation_checkpointing": checkpointing, "activation_memory_budget": budget}
    with pytest.raises(UserError, match=f"activation_memory_budget={budget}.*{reason}"):
        checkpointed_layers(TrainingConfiguration.model_construct(**cfg), 8)


@pytest.mark.parametrize(
    ("wanted", "packed", "device", "compiled"),
    [
        (None, True, "cuda", True),
        (None, False, "cuda", False),
        (None, True, "cpu", False),
        (True, False, "cpu", True),
        (False, True, "cuda", False),
    ],
)
def test_layers_are_compiled_where_it_pays_and_fp8_without_it_is_noted(wanted, packed, device, compiled):
    cfg = TrainingConfiguration.model_construct(compile=wanted, dataset={"packed": packed}, llm_weights="fp8")
    assert compiles(cfg, torch.device(device)) is compiled
    notes = speed_notes(cfg, torch.device(device))
    assert len(notes) == (device == "cuda" and not compiled)
    assert all("llm_weights=fp8 without compile=true" in note for note in notes)
    assert speed_notes(cfg.model_copy(update={"llm_weights": "bf16"}), torch.device(device)) == []
