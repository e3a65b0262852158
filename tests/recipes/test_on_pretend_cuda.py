"""The training recipe as a GPU runs it: the CPU's numbers, one wait a step, few launches and copies."""

from dataclasses import replace

import pytest
import torch

from helpers.packed_samples import SAMPLES, batch_of, gradients, tiny_images, tiny_model
from helpers.pretend_cuda import counts, create_mask, pretend_cuda
from helpers.random_rows import random_rows
from helpers.workspace import Workspace, log
from medcap.modules.attention_mask import packed_attention_mask
from medcap.modules.flex_layout import flex_layout
from medcap.modules.flex_mask import flex_mask
from medcap.training.trainer import Trainer


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


def test_a_run_has_the_cpus_losses_and_waits_once_a_step(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path, num_layers=1)
    overrides = ("dtype=fp32", "dataset.packed=true", "batch_size=1")
    plain = log(workspace.train(*overrides, output="plain"))
    steps = []

    def counted(trainer, loaded, make_step=Trainer._make_step):
        before = counts.copy()
        result = make_step(trainer, loaded)
        steps.append(counts - before)
        return result

    monkeypatch.setattr(Trainer, "_make_step", counted)
    with pretend_cuda():
        there = log(workspace.train(*overrides, "device=cuda", "compile=false", output="there"))
    assert len(there) == len(plain) > 1
    assert [row["loss"] for row in there] == pytest.approx([row["loss"] for row in plain], rel=1e-6)
    assert [row["grad_norm"] for row in there] == pytest.approx([row["grad_norm"] for row in plain], rel=1e-5)
    # The first step also copies what is kept; the batches are copied before.
    assert [step["waits"] for step in steps] == [1] * len(there)
    assert all(step["copies to device"] == 0 for step in steps[1:])


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
