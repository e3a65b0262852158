from itertools import accumulate

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from medcap.modules.label_loss import default_chunk_size, label_loss


@pytest.fixture
def head():
    torch.manual_seed(0)
    return nn.Sequential(nn.RMSNorm(6), nn.Linear(6, 11)).requires_grad_(False)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 1000])
def test_equals_full_cross_entropy_in_value_and_gradient(head, chunk_size):
    torch.manual_seed(1)
    targets = torch.randint(0, 11, (19,))
    ours = torch.randn(19, 6, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    loss = label_loss(ours, targets, head, chunk_size)
    expected = cross_entropy(head(theirs), targets, reduction="sum")
    (loss * 0.5).backward()
    (expected * 0.5).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_a_head_that_bends_its_logits_keeps_its_gradient(head):
    torch.manual_seed(1)
    targets = torch.randint(0, 11, (5,))
    ours = torch.randn(5, 6, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()

    def capped(hidden):  # as Gemma 2 does
        return torch.tanh(head(hidden) / 3.0) * 3.0

    label_loss(ours, targets, capped, 2).backward()
    cross_entropy(capped(theirs), targets, reduction="sum").backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_logits_exist_for_one_chunk_at_a_time(head):
    sizes = []

    def counting(chunk):
        sizes.append(len(chunk))
        return head(chunk)

    label_loss(torch.randn(3, 6), torch.tensor([4, 4, 4]), counting, chunk_size=2)
    assert sizes == [2, 1]


def test_a_cpu_takes_256_positions_at_a_time_and_a_gpu_512():
    assert (default_chunk_size("cpu"), default_chunk_size("cuda")) == (256, 512)


@pytest.mark.parametrize("chunks", [1, 3])
def test_at_most_two_float32_numbers_a_logit_exist_however_many_chunks_there_are(chunks):
    head = nn.Linear(8, 4096, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    hidden = torch.randn(64 * chunks, 8, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(64 * chunks, dtype=torch.int64)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as measured:
        label_loss(hidden, targets, lambda rows: head(rows).float(), 64).backward()
    events = measured.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    peak = max(accumulate(size for _, size in changes))
    assert 8.0 <= peak / (64 * 4096) < 8.1  # bytes


def test_without_a_gradient_the_value_is_the_same(head):
    hidden, targets = torch.randn(3, 6), torch.tensor([4, 0, 10])
    expected = cross_entropy(head(hidden), targets, reduction="sum")
    torch.testing.assert_close(label_loss(hidden, targets, head), expected)


def test_no_target_gives_zero_and_zero_gradient(head):
    hidden = torch.randn(4, 6, requires_grad=True)
    loss = label_loss(hidden[:0], torch.zeros(0, dtype=torch.int64), head)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.abs().sum() == 0
