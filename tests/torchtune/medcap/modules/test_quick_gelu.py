import torch
from open_clip.transformer import QuickGELU
from torch import nn
from transformers.activations import QuickGELUActivation

from medcap.modules.quick_gelu import LeanQuickGELU, use_lean_quick_gelu


def _both(dtype):
    torch.manual_seed(0)
    ours = (4 * torch.randn(3, 5, 8)).to(dtype).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    weights = torch.randn(3, 5, 8).to(dtype)
    results = LeanQuickGELU()(ours), QuickGELUActivation()(theirs)
    for result in results:
        (result * weights).sum().backward()
    return results, (ours.grad, theirs.grad)


def test_every_bit_of_the_value_is_that_of_transformers_and_the_gradient_is_the_same():
    values, gradients = _both(torch.float32)
    assert torch.equal(*values)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_in_bf16_the_value_is_that_of_transformers_and_the_gradient_is_as_near():
    values, gradients = _both(torch.bfloat16)
    assert torch.equal(*values)
    torch.testing.assert_close(*gradients, rtol=0.03, atol=0.03)


def test_gradient_of_a_strided_view_is_right():
    base = torch.linspace(-3.0, 3.0, 24).view(4, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(LeanQuickGELU()(base.t()).sum(), base)
    (expected,) = torch.autograd.grad(QuickGELUActivation()(base.t()).sum(), base)
    torch.testing.assert_close(gradient, expected)


def test_backward_pass_keeps_the_input_alone():
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    states = torch.randn(4, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        LeanQuickGELU()(states)
    assert len(kept) == 1 and kept[0].data_ptr() == states.data_ptr()


def test_both_classes_are_replaced_and_the_names_of_weights_stay():
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), QuickGELUActivation()), "b": QuickGELU()})
    names = list(model.state_dict())
    use_lean_quick_gelu(model)
    assert [type(module) for module in (model["a"][1], model["b"])] == [LeanQuickGELU] * 2
    assert list(model.state_dict()) == names
