"""A hidden state that looks for an object among the patches of an image; box head and mask decoder share it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcap.errors import UserError
from medcap.models.component import Component
from medcap.models.model_plan import PlannedModel
from medcap.models.words import AddedWords

_FIRST_SEEN = 2.0
# Most patches do not hold what is asked; the softmax of the scores does not see what all of them are lessened by.
_FIRST_SCORE = -2.0


class Sought(NamedTuple):
    """What a query found.

    Attributes:
        query: ``[M, w]`` the query.
        scores: ``[M, T]`` how well each patch answers it.
        weights: ``[M, T]`` the softmax of the scores.
        features: ``[M, w]`` what the patches hold, weighed so.
        seen: ``[M]`` positive where the picture shows the object, else negative; the sigmoid of it is the probability.
    """

    query: Tensor
    scores: Tensor
    weights: Tensor
    features: Tensor
    seen: Tensor


class ObjectQuery(nn.Module):
    """Looks for the object that a hidden state names among the patch tokens of a picture.

    The hidden state becomes a query, which looks at the patch tokens and then scores them. What the best patches hold,
    the query and the highest score say whether the picture shows the object: the softmax keeps only differences of the
    scores, and so cannot say that none of them is high.

    Args:
        dim: width d of a hidden state.
        patch_dim: width D of a patch token.
        num_patches: patch tokens of a picture, T; they are a square grid, row after row.
        width: width of the query.
        layers: times that the query looks at the patches.
        heads: attention heads.
    """

    def __init__(self, dim: int, patch_dim: int, num_patches: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.width, self.grid = width, math.isqrt(num_patches)
        self.query = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))
        self.patches = nn.Sequential(nn.LayerNorm(patch_dim), nn.Linear(patch_dim, width))
        self.layers = nn.ModuleList(_Look(width, heads) for _ in range(layers))
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.value_norm = nn.LayerNorm(width)
        last = nn.Linear(width, 1)
        # Objects count as seen until something absent was learnt from: few data name any.
        nn.init.constant_(last.bias, _FIRST_SEEN)
        self.seen = nn.Sequential(nn.Linear(2 * width + 1, width), nn.GELU(), last)

    def forward(self, hidden: Tensor, patches: Tensor) -> Sought:
        """Look for objects.

        Args:
            hidden: ``[M, d]`` hidden states after the decoder's final norm.
            patches: ``[M, T, D]`` patch tokens of the picture that each of them is about.
        """
        query = self.query(hidden.float())[:, None]  # [M, 1, w]
        tokens = self.patches(patches.float()) + positions(self.centres(patches.device), self.width)  # [M, T, w]
        for layer in self.layers:
            query = layer(query, tokens)
        scores = (self.key(tokens) @ query.mT)[..., 0] / math.sqrt(self.width)  # [M, T]
        weights = scores.softmax(dim=1)
        features = self.value_norm((weights[:, None] @ self.value(tokens))[:, 0])  # [M, w]
        query = query[:, 0]
        seen = self.seen(torch.cat([features, query, scores.amax(dim=1, keepdim=True)], dim=-1))[:, 0]  # [M]
        return Sought(query, scores, weights, features, seen)

    def centres(self, device: torch.device) -> Tensor:
        """Return the centres of the patches, row after row, in shares of the picture: ``[T, 2]``, x before y."""
        return grid_centres(self.grid, device)


class ObjectHead(Component):
    """A component that gives something of an object which a word of an answer names, such as its box or its mask.

    Args:
        dim: width d of a hidden state.
        patch_dim: width D of a patch token.
        num_patches: patch tokens of a picture, T; they are a square grid, row after row.
        width: width of the query.
        layers: times that the query looks at the patches.
        heads: attention heads.
    """

    reads_patches = needs_words = True

    def __init__(self, dim: int, patch_dim: int, num_patches: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.width, self.num_layers, self.heads = width, layers, heads
        self.look = ObjectQuery(dim, patch_dim, num_patches, width, layers, heads)
        self._final_norm: list[nn.Module] = []  # the decoder's; not a part of this module

    def config(self) -> dict[str, Any]:
        """Return the function's name and its options."""
        assert self.builder is not None
        return {"_component_": self.builder, "width": self.width, "layers": self.num_layers, "heads": self.heads}

    @classmethod
    def summary(cls, config: Mapping[str, Any]) -> str:
        """Name the size."""
        return sizes_in_words(config)

    def attach(self, model: nn.Module) -> None:
        """Keep the decoder's final norm, which comes before the head."""
        self._final_norm = [model.get_submodule("decoder.norm")]

    def seek(self, hidden: Tensor, patches: Tensor) -> Sought:
        """Look for objects.

        Args:
            hidden: ``[M, d]`` hidden states before the decoder's final norm.
            patches: ``[M, T, D]`` patch tokens of the picture that each of them is about.
        """
        return self.look(self._final_norm[0](hidden), patches)


def look_loss(scores: Tensor, covered: Tensor) -> Tensor:
    """Return the binary cross-entropy of whether a patch holds what is asked, in proportion to the patches that do.

    It tells each patch by itself what it should answer, also where nothing is to be found. Box and mask alone would
    reach the patches only through what is read off all of them together, and learn later.

    Args:
        scores: ``[M, T]`` of :class:`Sought`.
        covered: ``[M, T]`` how much of each patch the object covers, 0 to 1; the one that it covers most counts as
            covered.

    Returns:
        ``[M]``.
    """
    target = covered / covered.amax(dim=1, keepdim=True).clamp(min=1e-6)
    each = functional.binary_cross_entropy_with_logits(scores + _FIRST_SCORE, target, reduction="none")
    return each.sum(dim=1) / target.sum(dim=1).clamp(min=1)


def sizes_in_words(config: Mapping[str, Any]) -> str:
    """Return the size of an :class:`ObjectHead` for the model card."""
    layers = config["layers"]
    return f"{layers} layer{'' if layers == 1 else 's'} of width {config['width']}"


def check_sizes(name: str, width: int, layers: int, heads: int) -> None:
    """See that a component's options make an :class:`ObjectQuery`.

    Args:
        name: the component's key.
        width: width of the query.
        layers: times that it looks at the patches.
        heads: attention heads.

    Raises:
        UserError: if an option is impossible.
    """
    for key, value in {"width": width, "layers": layers, "heads": heads}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name}.{key}={value!r} must be a positive whole number")
    if width % 4 or width % heads:
        raise UserError(f"{name}.width={width} must be a multiple of 4 and of {name}.heads={heads}")


def check_word(name: str, what: str, word: str, plan: PlannedModel) -> None:
    """See that a model has the word that a component needs; arguments and errors of :func:`check_plan`."""
    words = next((part.config["tokens"] for part in plan.further if part.name == AddedWords.name), ())
    if word not in words:
        raise UserError(
            f"{name}: {what} is asked for by the word {word}, which this model does not have: add words=[{word}], and"
            f" {AddedWords.name} to trainable"
        )


def check_plan(name: str, what: str, word: str, plan: PlannedModel) -> None:
    """See that a model has the word and the patch tokens that a component needs.

    Args:
        name: the component's key.
        what: what it gives, with its article.
        word: the word that asks for it.
        plan: plan of the model.

    Raises:
        UserError: if the words lack it, the projector takes no patch tokens, or these are not a square.
    """
    check_word(name, what, word, plan)
    check_patches(name, plan)


def check_patches(name: str, plan: PlannedModel) -> int:
    """See that a model has the patch tokens that a component looks at.

    Args:
        name: the component's key.
        plan: plan of the model.

    Returns:
        The edge of their square.

    Raises:
        UserError: if the projector takes no patch tokens, or these are not a square.
    """
    if plan.vision.takes != "patches":
        raise UserError(
            f"{name} looks at patch tokens, but the projector takes one vector of an image: use another projector,"
            " such as projector=medcap.models.mlp"
        )
    count = plan.vision.shape.num_patches
    if math.isqrt(count) ** 2 != count:
        raise UserError(
            f"{name}: the tower gives {count} patch tokens, which are not a square: it cannot say where each of them is"
        )
    return math.isqrt(count)


class _Look(nn.Module):
    """The query attends to the patches: a pre-norm layer of cross-attention and an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """``[M, 1, w]`` and ``[M, T, w]`` -> ``[M, 1, w]``."""
        asked = self._split(self.to_query(self.norm(query)))
        keys, values = map(self._split, self.to_key_value(tokens).chunk(2, dim=-1))
        seen = functional.scaled_dot_product_attention(asked, keys, values)  # [M, heads, 1, w / heads]
        query = query + self.out(seen.transpose(1, 2).flatten(2))
        return query + self.mlp(query)

    def _split(self, states: Tensor) -> Tensor:
        """``[M, n, w]`` -> ``[M, heads, n, w / heads]``."""
        return states.unflatten(2, (self.heads, -1)).transpose(1, 2)


def grid_centres(grid: int, device: torch.device) -> Tensor:
    """Return the centres of a square grid of patches, row after row, in shares of the picture: ``[T, 2]``, x first."""
    axis = (torch.arange(grid, device=device) + 0.5) / grid
    return torch.stack([axis.repeat(grid), axis.repeat_interleave(grid)], dim=1)


def positions(centres: Tensor, width: int) -> Tensor:
    """Return sines and cosines of the centres, of four wavelengths a picture and shorter: ``[T, w]``."""
    count = width // 4
    frequencies = math.pi * torch.exp2(torch.linspace(0, 4, count, device=centres.device))  # [w / 4]
    angles = centres[..., None] * frequencies  # [T, 2, w / 4]
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
