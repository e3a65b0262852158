import pytest
import torch

from medcap.errors import UserError
from medcap.training.loss_normalisation import LossWeights


def test_one_term_is_a_mean_and_nothing_is_multiplied_before_the_backward_pass():
    losses = LossWeights(["text"])
    losses.begin([8])
    total = torch.tensor(6.0, requires_grad=True)
    assert losses.combine({"text": total}) is total
    assert losses.scale == 0.125
    assert losses.values([12.0]) == {"loss": 1.5}


def test_each_term_is_divided_by_its_own_count_and_weighed():
    losses = LossWeights(["text", "dice"], {"dice": 5})
    losses.begin([40, 2])
    text, dice = torch.tensor(20.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    (losses.combine({"text": text, "dice": dice}) * losses.scale).backward()
    assert text.grad.item() == pytest.approx(1 / 40)
    assert dice.grad.item() == pytest.approx(5 / 2)
    assert losses.values([20.0, 1.0]) == {"loss": 0.5 + 2.5, "loss_text": 0.5, "loss_dice": 0.5}


def test_a_term_that_a_step_does_not_have_counts_for_nothing():
    losses = LossWeights(["text", "dice"])
    losses.begin([0, 4])
    text, dice = torch.tensor(0.0, requires_grad=True), torch.tensor(8.0, requires_grad=True)
    (losses.combine({"text": text, "dice": dice}) * losses.scale).backward()
    assert text.grad is None and dice.grad.item() == 0.25
    assert losses.values([0.0, 8.0]) == {"loss": 2.0, "loss_text": 0.0, "loss_dice": 2.0}


def test_a_step_without_anything_to_learn_has_no_loss():
    losses = LossWeights(["text"])
    losses.begin([0])
    assert losses.scale == 0 and losses.combine({"text": torch.tensor(0.0)}).item() == 0
    assert losses.values([0.0]) == {"loss": 0.0}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"dcie": 1}, "losses.dcie: this model has no such loss term; it has text, dice"),
        ({"dice": -1}, "losses.dice=-1 must be a number of at least 0"),
        ({"dice": float("nan")}, "losses.dice=nan must be a number of at least 0"),
        ({"text": 0, "dice": 0}, "losses: every term has the weight 0, so nothing would be learnt"),
        ({"text": "much"}, "losses.text='much' must be a number of at least 0"),
    ],
)
def test_a_weight_that_makes_no_sense_is_refused(weights, message):
    with pytest.raises(UserError) as error:
        LossWeights(["text", "dice"], weights)
    assert str(error.value) == message
