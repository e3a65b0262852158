import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from medcap.modules.label_loss import label_loss, select_label_positions


def plain_loss(hidden, labels, unembed):
    logits = unembed(hidden)
    shifted = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)
    return cross_entropy(logits.flatten(0, 1), shifted.flatten(), ignore_index=-100, reduction="sum")


@pytest.fixture
def head():
    torch.manual_seed(0)
    return nn.Sequential(nn.RMSNorm(6), nn.Linear(6, 11)).requires_grad_(False)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 1000])
def test_equals_full_cross_entropy_in_value_and_gradient(head, chunk_size):
    torch.manual_seed(1)
    labels = torch.randint(0, 11, (3, 9))
    labels[torch.rand(3, 9) < 0.5] = -100
    ours = torch.randn(3, 9, 6, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    loss = label_loss(ours, labels, head, chunk_size)
    expected = plain_loss(theirs, labels, head)
    (loss * 0.5).backward()
    (expected * 0.5).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_logits_are_computed_at_label_positions_only(head):
    sizes = []

    def counting(chunk):
        sizes.append(len(chunk))
        return head(chunk)

    labels = torch.full((2, 50), -100)
    labels[0, 10:13] = 4
    labels[1, 0] = 4  # nothing comes before it, so nothing predicts it
    label_loss(torch.randn(2, 50, 6), labels, counting, chunk_size=2)
    assert sizes == [2, 1]


def test_no_label_gives_zero_and_zero_gradient(head):
    hidden = torch.randn(1, 4, 6, requires_grad=True)
    loss = label_loss(hidden, torch.full((1, 4), -100), head)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.abs().sum() == 0


def test_the_predictor_is_the_token_before():
    hidden = torch.arange(4.0).reshape(1, 4, 1)
    selected, targets = select_label_positions(hidden, torch.tensor([[-100, -100, 8, 9]]))
    assert selected.flatten().tolist() == [1, 2]
    assert targets.tolist() == [8, 9]
