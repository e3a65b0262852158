import torch
from torch import nn

from medcap.modules.frozen_linear.int8 import Int8Linear


def test_a_weight_that_int8_can_represent_is_kept_exactly() -> None:
    linear = nn.Linear(3, 2, bias=False)
    # 127 and other integers, times a power of two for each row
    linear.weight = nn.Parameter(torch.tensor([[127.0, -3.0, 0.0], [-0.5, 31.75, 10.25]]))
    frozen = Int8Linear(linear)
    assert frozen.quantised.tolist() == [[127, -3, 0], [-2, 127, 41]]
    assert frozen.scale.tolist() == [1.0, 0.25]
    states = torch.tensor([[1.0, 2.0, 4.0], [0.5, -8.0, 3.0]], requires_grad=True)
    output = frozen(states)
    assert output.tolist() == [[121.0, 104.0], [87.5, -223.5]]
    output.backward(torch.tensor([[1.0, 4.0], [2.0, 0.0]]))
    assert states.grad.tolist() == [[125.0, 124.0, 41.0], [254.0, -6.0, 0.0]]


def test_the_worst_error_is_half_a_step_of_the_row() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(500, 20, bias=False)
    nn.init.normal_(linear.weight)
    error = (Int8Linear(linear).decoded(torch.float32) - linear.weight).abs().amax(dim=1)
    step = linear.weight.abs().amax(dim=1) / 127
    assert (error <= 0.5001 * step).all()
    assert (error > 0.4 * step).all()


def test_few_bf16_rows_are_multiplied_without_a_decoded_weight(monkeypatch) -> None:
    torch.manual_seed(0)
    frozen = Int8Linear(nn.Linear(64, 48, bias=False))
    states = torch.randn(3, 64).bfloat16()
    expected = states.float() @ frozen.decoded(torch.float32).T
    learnt = states.clone().requires_grad_()
    frozen(learnt).sum().backward()
    torch.testing.assert_close(
        learnt.grad.float(), frozen.decoded(torch.float32).sum(0).expand(3, -1), rtol=0.02, atol=0.05
    )
    monkeypatch.setattr("medcap.modules.frozen_linear.int8._Int8Product", None)
    with torch.no_grad():
        torch.testing.assert_close(frozen(states).float(), expected, rtol=0.02, atol=0.02)


def test_a_compiled_single_row_reads_the_integers_in_one_loop() -> None:
    linear = nn.Linear(3, 2, bias=False)
    linear.weight = nn.Parameter(torch.tensor([[127.0, -3.0, 0.0], [-0.5, 31.75, 10.25]]))
    frozen, operators = Int8Linear(linear), []

    def backend(graph, _):
        operators.extend(str(node.target) for node in graph.graph.nodes if node.op.startswith("call"))
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(frozen, backend=backend, fullgraph=True)
    with torch.no_grad():
        assert compiled(torch.tensor([[1.0, 2.0, 4.0]])).tolist() == [[121.0, 104.0]]
        assert compiled(torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.bfloat16)).tolist() == [[121.0, 104.0]]
    assert operators.count("sum") == 2
    assert not any("matmul" in name or "int8pack" in name for name in operators)
