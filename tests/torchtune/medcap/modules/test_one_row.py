import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torchtune.modules import TiedLinear

from medcap.modules.one_row import attend, project

WEIGHT = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]])


def compiled(function):
    """What the compiler sees, run by torch's own operators, and the names of these."""
    operators = []

    def backend(graph, _):
        operators.extend(str(node.target) for node in graph.graph.nodes if node.op.startswith("call"))
        return graph.forward

    torch._dynamo.reset()
    return torch.compile(function, backend=backend, fullgraph=True), operators


def linear_map(kind):
    if kind == "tied":
        table = nn.Embedding(2, 3)
        table.weight.data = WEIGHT
        return TiedLinear(table)
    linear = nn.Linear(3, 2, bias=False)
    linear.weight.data = WEIGHT
    return linear


@pytest.mark.parametrize("kind", ["linear", "tied"])
def test_a_single_row_is_a_sum_of_products_where_it_is_compiled(kind):
    linear = linear_map(kind)
    function, operators = compiled(lambda states: project(linear, states))
    states = torch.tensor([[[2.0, 1.0, -1.0]]])
    assert function(states).tolist() == [[[1.0, -1.5]]]
    assert "sum" in operators and not any("linear" in name for name in operators)
    assert project(linear, states).tolist() == [[[1.0, -1.5]]]


def test_several_rows_are_a_matrix_product():
    linear = linear_map("linear")
    function, operators = compiled(lambda states: project(linear, states))
    assert function(torch.tensor([[2.0, 1.0, -1.0], [1.0, 0.0, 0.0]])).tolist() == [[1.0, -1.5], [1.0, -1.0]]
    assert "sum" not in operators


@pytest.mark.parametrize("linear", [nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2, bias=False))])
def test_what_is_more_than_a_weight_computes_by_itself(linear):
    function, operators = compiled(lambda states: project(linear, states))
    states = torch.tensor([[2.0, 1.0, -1.0]])
    torch.testing.assert_close(function(states), linear(states))
    assert "sum" not in operators


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_of_a_single_row_is_torchs(dtype, masked):
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(1, 2, n, 8, generator=generator).to(dtype) for n in (3, 7, 7))  # [1, H_kv, n, h]
    mask = (torch.arange(7) < 5)[None, None, None] if masked else None
    function, operators = compiled(attend)
    found = function(query, keys, values, mask)
    assert not any("attention" in name for name in operators)
    assert found.dtype == dtype
    expected = scaled_dot_product_attention(query.double(), keys.double(), values.double(), attn_mask=mask)
    torch.testing.assert_close(found.double(), expected, atol=1e-6 if dtype == torch.float32 else 4e-3, rtol=1e-2)
    torch.testing.assert_close(attend(query, keys, values, mask).double(), expected, atol=2e-2, rtol=2e-2)
