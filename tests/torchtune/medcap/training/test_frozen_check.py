from types import SimpleNamespace

import pytest
import torch

from helpers.model_parts import ModelParts
from medcap.checkpoints.llm_fingerprint import llm_fingerprint
from medcap.modules.frozen_linear import quantise_layer
from medcap.training.distributed.context import single_world
from medcap.training.frozen_check import FrozenWeightCheck
from medcap.training.keys import TrainingConfiguration

ALONE = single_world(torch.device("cpu"))
PLAN = SimpleNamespace(vision=SimpleNamespace(llm={"fingerprint": None}, notices=[]), llm=SimpleNamespace(dim=16))


def test_a_frozen_weight_that_changed_is_found():
    model = ModelParts("medcap.models.mlp")
    cfg = TrainingConfiguration.model_construct(llm={"_component_": "torchtune.models.llama3_1.llama3_1"})
    proof = FrozenWeightCheck(cfg, PLAN, model, ALONE)
    same = proof.after()
    assert same["llm_sha256_before"] == same["llm_sha256_after"] == proof.llm["fingerprint"] is not None
    proof.check(same)
    with torch.no_grad():
        model.decoder.weight[0, 0] += 1e-6
    with pytest.raises(RuntimeError, match="the frozen language model changed: sha256"):
        proof.check(proof.after())
    cfg.verify_frozen = False
    assert FrozenWeightCheck(cfg, PLAN, model, ALONE).after() == {
        "llm_sha256_before": None,
        "llm_sha256_after": None,
    }


def test_on_a_gpu_the_weights_are_hashed_once_and_only_checksums_are_compared(monkeypatch):
    model = ModelParts("medcap.models.mlp")
    cfg = TrainingConfiguration.model_construct(llm={"_component_": "torchtune.models.llama3_1.llama3_1"})
    hashed = []

    def counted(decoder, **options):
        hashed.append(decoder)
        return llm_fingerprint(decoder, **options)

    monkeypatch.setattr("medcap.training.frozen_check.llm_fingerprint", counted)
    proof = FrozenWeightCheck(cfg, PLAN, model, single_world(torch.device("cuda")))
    same = proof.after()
    assert len(hashed) == 1
    assert same["llm_sha256_before"] == same["llm_sha256_after"] == llm_fingerprint(model.decoder)
    with torch.no_grad():
        model.decoder.weight[0, 0] += 1e-6
    with pytest.raises(RuntimeError, match="the frozen language model changed: sha256"):
        proof.check(proof.after())
    assert len(hashed) == 2


def test_quantised_weights_are_watched_and_their_model_is_known_by_its_files():
    model = ModelParts("medcap.models.mlp")
    quantise_layer(model, "int8")
    model.dtype = torch.float32
    plan = SimpleNamespace(vision=PLAN.vision, llm=SimpleNamespace(dim=16))
    plan.llm.fingerprint = lambda dtype: f"of the files in {dtype}"
    cfg = TrainingConfiguration.model_construct(llm={"_component_": "torchtune.models.llama3_1.llama3_1"})
    proof = FrozenWeightCheck(cfg, plan, model, ALONE)
    assert proof.llm["fingerprint"] == "of the files in torch.float32"
    assert proof.llm["weights"] == "int8"
    proof.check(proof.after())
    model.decoder.quantised[0, 0] += 1
    with pytest.raises(RuntimeError, match="the frozen language model changed: sha256"):
        proof.check(proof.after())
