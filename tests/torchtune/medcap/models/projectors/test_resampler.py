import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from medcap.errors import UserError
from medcap.models.projectors.base import build_projector
from medcap.models.towers.base import TowerShape

RESAMPLER = {"_component_": "medcap.models.resampler"}


def sincos(width, positions):
    """One-dimensional positions, transcribed from MAE's get_1d_sincos_pos_embed_from_grid."""
    omega = 1.0 / 10000 ** (np.arange(width // 2, dtype=np.float64) / (width / 2.0))
    out = np.einsum("m,d->md", positions.reshape(-1), omega)
    return np.concatenate([np.sin(out), np.cos(out)], axis=1)


def sincos_grid(width, edge):
    """Two-dimensional positions, transcribed from get_2d_sincos_pos_embed: the column goes first."""
    columns, rows = np.meshgrid(np.arange(edge, dtype=np.float32), np.arange(edge, dtype=np.float32))
    found = np.concatenate([sincos(width // 2, columns), sincos(width // 2, rows)], axis=1)
    return torch.tensor(found, dtype=torch.float32)


def transcribed(state, patches, heads, queries, grid):
    """Qwen-VL's Resampler, ln_post and proj, as formulas."""
    width = state["queries"].shape[1]

    def norm(values, name):
        return functional.layer_norm(values, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def split(values):
        return values.unflatten(-1, (heads, width // heads)).transpose(1, 2)  # [N, heads, length, width / heads]

    positions = sincos_grid(width, queries)
    keys_at = positions
    if grid != queries:
        as_image = positions.reshape(1, queries, queries, width).permute(0, 3, 1, 2)
        keys_at = functional.interpolate(as_image, size=(grid, grid), mode="bicubic", align_corners=False)
        keys_at = keys_at.permute(0, 2, 3, 1).flatten(0, 2)
    inner = state.get("inner.weight")
    values = norm(patches if inner is None else patches @ inner.T, "key_norm")
    asked = norm(state["queries"], "query_norm")[None] + positions
    weights, biases = state["attention.in_proj_weight"].chunk(3), state["attention.in_proj_bias"].chunk(3)
    inputs = asked.expand(len(patches), -1, -1), values + keys_at, values
    query, key, value = (split(x @ w.T + b) for x, w, b in zip(inputs, weights, biases, strict=True))
    seen = (query @ key.transpose(2, 3) / math.sqrt(width // heads)).softmax(-1) @ value
    out = seen.transpose(1, 2).flatten(2) @ state["attention.out_proj.weight"].T + state["attention.out_proj.bias"]
    return norm(out, "norm") @ state["outer.weight"].T


@pytest.mark.parametrize(("grid", "patch_dim"), [(3, 6), (2, 16), (5, 6)])
def test_it_computes_qwen_vls_formulas(grid, patch_dim):
    torch.manual_seed(0)
    shape = TowerShape(grid * grid, patch_dim, 0)
    projector = build_projector({**RESAMPLER, "num_image_tokens": 9, "num_heads": 2}, shape, 16)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in projector.state_dict().items()}
    projector.load_state_dict(state)
    assert ("inner.weight" in state) == (patch_dim != 16)
    parameters = {name: value.clone().requires_grad_() for name, value in state.items()}
    patches = torch.randn(2, grid * grid, patch_dim)
    found, expected = projector(patches), transcribed(parameters, patches, heads=2, queries=3, grid=grid)
    assert found.shape == (2, 9, 16)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in projector.named_parameters():
        torch.testing.assert_close(parameter.grad, parameters[name].grad, rtol=1e-3, atol=1e-4)


def test_qwen_vls_own_size():
    with torch.device("meta"):
        projector = build_projector(RESAMPLER, TowerShape(1024, 1664, 0), 4096)
    assert projector.num_image_tokens == 256 and projector.attention.num_heads == 32
    # The published projector without its fixed positions: kv_proj, queries, norms, attention, ln_post and proj.
    attention = 4 * 4096 * 4096 + 4 * 4096
    expected = 1664 * 4096 + 256 * 4096 + 3 * 2 * 4096 + attention + 4096 * 4096
    assert sum(parameter.numel() for parameter in projector.parameters()) == expected


@pytest.mark.parametrize(
    ("patches", "width", "options", "message"),
    [
        (9, 16, {"num_image_tokens": 8}, "num_image_tokens=8 must be a perfect square .* the next below is 4"),
        (8, 16, {}, "8 tokens form no square grid"),
        (9, 18, {}, "a width that 4 divides, not 18"),
        (9, 16, {"num_heads": 3}, "num_heads=3 must divide"),
        (9, 16, {"num_heads": 0}, "num_heads=0 must be a positive whole number"),
    ],
)
def test_what_does_not_fit_is_refused(patches, width, options, message):
    with pytest.raises(UserError, match=message):
        build_projector({**RESAMPLER, **options}, TowerShape(patches, 6, 0), width)


@pytest.mark.parametrize(("width", "heads"), [(4096, 32), (192, 1), (960, 6), (32, 1), (640, 5)])
def test_the_number_of_heads_divides_the_width(width, heads):
    with torch.device("meta"):
        assert build_projector(RESAMPLER, TowerShape(4, 8, 0), width).attention.num_heads == heads
