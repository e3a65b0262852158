import pytest
import torch

from medcap.generation.decoding.sampling import LIKELY_TOKENS, choose_among_likely, choose_tokens, draw_uniforms
from medcap.generation.request import Sampling

# Probabilities 0.5, 0.1, 0.3, 0.1 of the ids 0 to 3.
LOGITS = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log()


def choices(sampling: Sampling, count: int = 1000) -> list[float]:
    """Share of each id when the random numbers cover [0, 1) evenly."""
    uniforms = (torch.arange(count) + 0.5) / count
    chosen = choose_tokens(LOGITS.expand(count, 4).clone(), sampling, uniforms)
    return [round(float((chosen == token).float().mean()), 3) for token in range(4)]


def test_temperature_zero_takes_the_most_likely_and_of_equals_the_lowest_id():
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [2.0, 0.0, 2.0, 2.0]])
    assert choose_tokens(logits, Sampling(), None).tolist() == [1, 0]


def test_top_k_one_is_greedy_at_any_temperature():
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    greedy = choose_tokens(logits, Sampling(), None)
    assert torch.equal(choose_tokens(logits, Sampling(temperature=5.0, top_k=1), torch.rand(50)), greedy)


def test_temperature_one_has_the_models_distribution():
    assert choices(Sampling(temperature=1.0)) == [0.5, 0.1, 0.3, 0.1]


def test_temperature_sharpens_before_normalising():
    # Squares of the probabilities: 25, 1, 9, 1 of 36.
    assert choices(Sampling(temperature=0.5), 36000) == [0.694, 0.028, 0.25, 0.028]


def test_top_k_leaves_the_k_most_likely():
    # 5 / 8 and 3 / 8.
    assert choices(Sampling(temperature=1.0, top_k=2), 8000) == [0.625, 0.0, 0.375, 0.0]


def test_top_k_cuts_equals_by_the_lowest_id():
    assert choices(Sampling(temperature=1.0, top_k=3), 9000) == [0.556, 0.111, 0.333, 0.0]


def test_top_k_beyond_the_vocabulary_is_no_limit():
    assert choices(Sampling(temperature=1.0, top_k=300)) == [0.5, 0.1, 0.3, 0.1]


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(0.3, [1.0, 0.0, 0.0, 0.0]), (0.6, [0.625, 0.0, 0.375, 0.0]), (0.85, [0.556, 0.111, 0.333, 0.0])],
)
def test_top_p_leaves_the_smallest_set_that_reaches_p(top_p, expected):
    assert choices(Sampling(temperature=1.0, top_p=top_p), 7200) == expected


def test_top_p_counts_within_top_k():
    # Of 0.5 and 0.3 renormalised the first has 0.625, so it reaches 0.6 alone.
    assert choices(Sampling(temperature=1.0, top_k=2, top_p=0.6)) == [1.0, 0.0, 0.0, 0.0]


def test_minus_infinity_is_never_chosen():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(3, 3)
    edges = torch.tensor([0.0, 0.5, 1 - 2**-24])
    for sampling in (Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=1.0)):
        assert choose_tokens(logits, sampling, edges).tolist() == [1, 1, 1]


def test_tiny_temperature_is_greedy_instead_of_infinite():
    logits = torch.tensor([[900.0, 901.0, -300.0]])
    assert choose_tokens(logits, Sampling(temperature=1e-40), torch.tensor([0.99])).tolist() == [1]


def test_random_numbers_depend_on_seed_and_request_alone():
    first = draw_uniforms(1234, "row 7", 3)
    assert first.tolist() == pytest.approx([0.11865681, 0.97163856, 0.10318279])
    torch.manual_seed(0)
    assert torch.equal(draw_uniforms(1234, "row 7", 3), first)
    assert torch.equal(draw_uniforms(1234, "row 7", 9)[:3], first)
    assert not torch.equal(draw_uniforms(1235, "row 7", 3), first)
    assert not torch.equal(draw_uniforms(1234, "row 8", 3), first)


def by_full_sort(logits, sampling, uniforms):
    """The rule written plainly: the whole vocabulary in float64, sorted."""
    scaled = (logits - logits.amax(dim=-1, keepdim=True)).double() / sampling.temperature
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    ordered, ids = ordered[:, : sampling.top_k], ids[:, : sampling.top_k]
    probabilities = ordered.softmax(dim=-1)
    if sampling.top_p is not None:
        before = probabilities.cumsum(dim=-1) - probabilities
        beyond = before >= sampling.top_p
        beyond[:, 0] = False
        probabilities = probabilities.masked_fill(beyond, 0.0)
    cumulative = probabilities.cumsum(dim=-1)
    targets = uniforms.double()[:, None] * cumulative[:, -1:]
    return ids.gather(1, torch.searchsorted(cumulative, targets, right=True)).squeeze(1)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.7, top_p=0.9),
        Sampling(temperature=1.3, top_k=50),
        Sampling(temperature=1.0, top_k=40, top_p=0.8),
    ],
)
def test_choices_are_those_of_a_full_sort_in_float64(sampling):
    source = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(400, 3000, generator=source)
    logits[:200] = (logits[:200] * 4).round() / 4  # many equals, also where top-k and top-p cut
    uniforms = torch.rand(400, generator=source)
    expected = by_full_sort(logits, sampling, uniforms)
    assert torch.equal(choose_tokens(logits, sampling, uniforms), expected)
    chosen, short = choose_among_likely(logits, sampling, uniforms, num_likely=300)
    assert torch.equal(chosen if short is None else chosen[~short], expected if short is None else expected[~short])


def test_rows_whose_likely_tokens_do_not_reach_p_are_named():
    logits = torch.zeros(2, 100)
    logits[1, 7] = 20.0
    chosen, short = choose_among_likely(logits, Sampling(temperature=1.0, top_p=0.5), torch.tensor([0.9, 0.9]), 10)
    assert short.tolist() == [True, False]
    assert chosen[1] == 7


def test_top_p_orders_no_more_than_the_likely_tokens(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "sort", None)
    columns = []
    topk = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda keys, k, dim: columns.append(k) or topk(keys, k, dim=dim))
    choose_among_likely(torch.randn(2, 5000), Sampling(temperature=1.0, top_p=0.9), torch.rand(2))
    assert columns == [LIKELY_TOKENS]
