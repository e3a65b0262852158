"""The training recipe as a GPU runs it: the CPU's numbers, one wait a step, few launches and copies."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from helpers.every_component import MODEL, component_workspace
from helpers.packed_samples import SAMPLES, batch_of, gradients, tiny_images, tiny_model
from helpers.pretend_cuda import counts, create_mask, pretend_cuda
from helpers.random_rows import random_rows
from helpers.workspace import Workspace, log
from medcap.models.component_registry import COMPONENTS
from medcap.modules.attention_mask import packed_attention_mask
from medcap.modules.flex_layout import flex_layout
from medcap.modules.flex_mask import flex_mask
from medcap.training.trainer import Trainer

ON_IT = ("device=cuda", "compile=false")


def test_what_a_gpu_would_refuse_is_refused_and_waits_are_counted():
    host = torch.ones(3)
    with pretend_cuda() as device:
        there = torch.arange(3.0, device="cuda")
        assert there.device == device and there.is_cuda
        for refused in (lambda: there + host, lambda: torch.cat([there, host]), lambda: there.copy_(host).add_(host)):
            with pytest.raises(RuntimeError, match="same device"):
                refused()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        counts.clear()
        doubled = (host.to(device) * 2)[1:]
        assert counts == {"copies to device": 1, "kernels": 1}
        assert doubled.tolist() == [2, 2] and doubled[doubled > 5].shape == (0,) and doubled.cpu().is_cpu
        assert counts == {"copies to device": 1, "kernels": 3, "waits": 3, "copies to host": 1}
    assert not torch.cuda.is_available() or host.cuda().device.type == "cuda"


# What a run computes with, how far its losses and gradient norms may be from the CPU's, its launches a step at most.
PACKED = ("dataset.packed=true", "batch_size=1")
FLOAT32, EXACT = (*PACKED, "dtype=fp32"), (1e-6, 1e-5)
RUNS = {
    "packed": (FLOAT32, EXACT, 250),
    "unpacked": (("dtype=fp32", "dataset.packed=false"), EXACT, 250),
    "accumulated": ((*FLOAT32, "gradient_accumulation_steps=2"), EXACT, 420),
    "computed again": ((*FLOAT32, "enable_activation_checkpointing=true"), EXACT, 330),
    "int8": ((*FLOAT32, "llm_weights=int8"), EXACT, 280),
    "nf4": ((*FLOAT32, "llm_weights=nf4"), EXACT, 300),
    "adapters": ((*FLOAT32, "llm_lora={rank: 2}", "trainable=[projector, llm_lora]"), EXACT, 250),
    "words": ((*FLOAT32, "words=[<SEG>]", "trainable=[projector, words]"), EXACT, 200),
    # Attention and norms round to bf16 at other places on the CPU; so do the results of products of 8 bits.
    "bf16": ((*PACKED, "dtype=bf16"), (2e-3, 2e-2), 270),
    "fp8": ((*PACKED, "dtype=bf16", "llm_weights=fp8"), (5e-3, 8e-2), 390),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_has_the_cpus_losses_and_waits_once_a_step(tmp_path, monkeypatch, run):
    overrides, (of_losses, of_norms), most_launches = RUNS[run]
    workspace = Workspace(tmp_path, num_layers=1)
    plain = log(workspace.train(*overrides, output="plain"))
    steps = count_steps(monkeypatch)
    with pretend_cuda():
        there = log(workspace.train(*overrides, *ON_IT, output="there"))
    assert len(there) == len(plain) > 1
    assert [row["loss"] for row in there] == pytest.approx([row["loss"] for row in plain], rel=of_losses)
    assert [row["grad_norm"] for row in there] == pytest.approx([row["grad_norm"] for row in plain], rel=of_norms)
    # The first step also copies what is kept; the batches are copied before.
    assert [step["waits"] for step in steps] == [1] * len(there)
    assert all(step["copies to device"] == 0 for step in steps[1:])
    assert steps[0]["copies to device"] <= 1
    assert 100 < max(step["kernels"] for step in steps[1:]) <= most_launches


def test_all_components_together_have_the_cpus_losses_and_wait_once_a_step(tmp_path, monkeypatch):
    workspace = component_workspace(tmp_path, num_layers=1)
    # Without the optimizer's division by a gradient's size, which makes rounding errors of zeros as large as any.
    overrides = (*FLOAT32, *MODEL, f"trainable=[{','.join(COMPONENTS)}]", "optimizer.eps=1e-4")
    plain = log(workspace.train(*overrides, output="plain"))
    steps = count_steps(monkeypatch)
    with pretend_cuda():
        there = log(workspace.train(*overrides, *ON_IT, output="there"))
    names = [name for name in plain[0] if name.startswith("loss") or name == "grad_norm"]
    assert len(names) == 13 and len(there) == len(plain) > 1
    for row, expected in zip(there, plain, strict=True):
        assert [row[name] for name in names] == pytest.approx([expected[name] for name in names], rel=1e-4)
    assert [step["waits"] for step in steps] == [1] * len(there)
    assert all(step["copies to device"] == 0 for step in steps[1:])
    assert max(step["kernels"] for step in steps[1:]) <= 1300


def count_steps(monkeypatch):
    """Return a list to which what is counted in each training step will be added."""
    steps = []

    def counted(trainer, loaded, make_step=Trainer._make_step):
        before = counts.copy()
        result = make_step(trainer, loaded)
        steps.append(counts - before)
        return result

    monkeypatch.setattr(Trainer, "_make_step", counted)
    return steps


def test_a_resumed_run_is_the_one_that_was_not_stopped(tmp_path):
    workspace = Workspace(tmp_path, num_layers=1)
    overrides = (*FLOAT32, *ON_IT, "epochs=2")
    with pretend_cuda():
        whole = workspace.train(*overrides, output="whole")
        first, last = sorted((whole / "checkpoint").glob("step_*"))
        resumed = workspace.train(*overrides, f"resume_from_checkpoint={first}", output="resumed")
    found, expected = (load_file(run / "checkpoint" / last.name / "vision.safetensors") for run in (resumed, whole))
    before = load_file(first / "vision.safetensors")
    assert found.keys() == expected.keys() == before.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not any(torch.equal(before[name], expected[name]) for name in expected if "projector" in name)


@pytest.mark.parametrize(("static_shape", "most"), [(True, 70), (False, 70)], ids=["block mask", "tensor mask"])
def test_a_layer_has_the_cpus_gradients_in_few_launches(static_shape, most):
    images, launches = tiny_images(), []
    for num_layers in (1, 2):
        model = tiny_model(num_layers=num_layers)
        batch = replace(batch_of(SAMPLES, images, 64), static_shape=static_shape)
        expected = gradients(model, model.losses(batch)["text"])
        with pretend_cuda() as device:
            model.to(device)
            counts.clear()
            moved = batch.to(device)
            assert counts == {"copies to device": 1}
            counts.clear()
            found = gradients(model, model.losses(moved)["text"])
            launches.append(counts["kernels"])
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name].cpu(), gradient, rtol=1e-3, atol=2e-5)
    assert 30 < launches[1] - launches[0] <= most


def test_the_block_mask_lets_the_masks_pairs_through_without_a_wait():
    columns = random_rows(0, 2, 300)
    expected = packed_attention_mask(*map(torch.from_numpy, columns), prompt_prefix_length=5)
    layout = torch.from_numpy(flex_layout(*columns, 5))
    with pretend_cuda() as device:
        there = layout.to(device)
        counts.clear()
        block = flex_mask(there, 2, 300, 5)
        assert counts == {}
        # Three blocks of queries; one of the prompt prefix's keys before as many of their own.
        assert block.kv_indices.device == device and block.kv_indices.shape == (2, 1, 3, 4)
        found = create_mask(block.mask_mod, 2, None, 300, 128 + 300, device)[:, 0].cpu()
    assert not found[..., 5:128].any()
    assert torch.equal(torch.cat([found[..., :5], found[..., 128:]], 2), expected)


def test_a_conjugate_is_multiplied_as_one():
    numbers, others = torch.tensor([1 + 2j]), torch.tensor([3 + 4j])
    with pretend_cuda() as device:
        there, factor = numbers.to(device), others.to(device)
        assert (there * factor.conj()).tolist() == [11 + 2j]
        assert torch.view_as_real(factor.conj().resolve_conj()).tolist() == [[3, -4]]
        assert (there * factor.conj().imag).tolist() == [-4 - 8j]
