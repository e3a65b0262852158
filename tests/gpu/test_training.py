"""Training on a GPU: its kernels and copies give what the CPU's plain way gives."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from helpers.packed_samples import (
    NUM_TARGETS,
    PROMPT_PREFIX,
    SAMPLES,
    batch_of,
    gradients,
    plain_loss,
    tiny_images,
    tiny_model,
)
from helpers.random_rows import random_rows
from helpers.workspace import Workspace, log
from medcap.modules.attention_mask import packed_attention_mask
from medcap.modules.flex_layout import flex_layout
from medcap.modules.flex_mask import flex_mask
from medcap.training.data import LoadedStep, TrainingData

# FlexAttention takes heads of 16 numbers and more.
WIDE_HEADS = {"num_heads": 2, "num_kv_heads": 1}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("prompt_prefix", [(), PROMPT_PREFIX])
@pytest.mark.parametrize("row_length", [64, 150], ids=["blocks", "a part of a block"])
def test_flex_attention_gives_what_the_mask_and_the_plain_way_give(device, row_length, prompt_prefix, compiled):
    images = tiny_images()
    expected = plain_loss(tiny_model(**WIDE_HEADS), images)
    wanted = gradients(model := tiny_model(**WIDE_HEADS), plain_loss(model, images))
    model.to(device)
    model.cache_prompt_prefix(prompt_prefix)
    if compiled:
        model.compile_layers()
    batch = batch_of(SAMPLES, images, row_length, prompt_prefix=prompt_prefix).to(device)
    for static_shape in (True, False):
        loss = model.losses(replace(batch, static_shape=static_shape))["text"] / NUM_TARGETS
        found = gradients(model, loss)
        torch.testing.assert_close(loss.cpu(), expected, rtol=1e-4, atol=1e-5)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name].cpu(), gradient, rtol=1e-3, atol=2e-5)


def test_the_block_mask_on_the_device_is_the_boolean_mask(device):
    columns = random_rows(0, 2, 300)
    expected = packed_attention_mask(*map(torch.from_numpy, columns), prompt_prefix_length=5)
    block = flex_mask(torch.from_numpy(flex_layout(*columns, 5)).to(device), 2, 300, 5)
    found = create_mask(block.mask_mod, 2, None, 300, 428, device)[:, 0].cpu()
    assert not found[..., 5:128].any()
    assert torch.equal(torch.cat([found[..., :5], found[..., 128:]], 2), expected)


def test_batches_that_are_copied_ahead_are_whole_while_the_device_is_slow(device):
    if device.type != "cuda":
        pytest.skip("nothing is copied")
    images = tiny_images()
    batches = [batch_of(SAMPLES[:count], images, 64).pin_memory() for count in (1, 2, 3, 4, 5)] * 8
    steps = [LoadedStep([batch, None], [], number, 0.0) for number, batch in enumerate(batches)]
    data = SimpleNamespace(world=SimpleNamespace(device=device), steps=lambda epoch, start: iter(steps))
    sums = []
    for number, step in enumerate(TrainingData.steps_on_device(data, 0, 0)):
        (batch, nothing) = step.batches
        assert nothing is None and step.next_unit == number and batch.tokens.device == device
        torch.cuda._sleep(5_000_000)
        # Read late: memory that was given away too early would hold a later batch by now.
        sums.append(torch.stack([batch.tokens.sum(), batch.targets.sum(), batch.images.long().sum()]))
        del step, batch
    expected = [torch.stack([batch.tokens.sum(), batch.targets.sum(), batch.images.long().sum()]) for batch in batches]
    assert torch.equal(torch.stack(sums).cpu(), torch.stack(expected))


@pytest.mark.parametrize("layout", ["true", "false"], ids=["packed", "unpacked"])
@pytest.mark.parametrize("compiled", ["false", "true"], ids=["eager", "compiled"])
def test_a_run_has_the_cpus_losses(device, tmp_path, layout, compiled):
    workspace = Workspace(tmp_path, **WIDE_HEADS)
    overrides = ("dtype=fp32", f"dataset.packed={layout}", "epochs=2", "seed=3")
    plain = log(workspace.train(*overrides, output="plain"))
    there = log(workspace.train(*overrides, f"device={device.type}", f"compile={compiled}", output="there"))
    assert len(plain) == len(there) > 2
    assert [row["loss"] for row in there] == pytest.approx([row["loss"] for row in plain], rel=1e-3)
    assert [row["grad_norm"] for row in there] == pytest.approx([row["grad_norm"] for row in plain], rel=5e-3)


@pytest.mark.parametrize("mode", ["replicate", "shard"])
@pytest.mark.processes
def test_two_gpus_make_the_steps_of_one(device, server, tmp_path, mode):
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device, not two")
    workspace = Workspace(tmp_path, **WIDE_HEADS)
    # AdamW divides by a gradient's size, which would make the rounding errors of one that is zero as large as any.
    overrides = ("dtype=fp32", f"device={device.type}", "dataset.packed=false", "epochs=3", "optimizer.eps=1e-4")
    one = server.train(workspace, "one", *overrides, "batch_size=4")
    assert one.wait(300) == [0], one.printed()
    two = server.train(workspace, "two", *overrides, "batch_size=2", f"parallelism={mode}", processes=2)
    assert two.wait(300) == [0, 0], two.printed()
    losses = [[row["loss"] for row in log(tmp_path / name)] for name in ("one", "two")]
    assert len(losses[0]) > 2 and losses[1] == pytest.approx(losses[0], rel=1e-4)
