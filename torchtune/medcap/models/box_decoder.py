"""A head that gives a box for each ``<BOX>`` of an answer, beside a language model that stays frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcap.data.batch import BOX_GIOU, BOX_L1, BOX_SEEN, Batch
from medcap.data.boxes.style import BOX_WORD
from medcap.errors import UserError
from medcap.models.component import Component
from medcap.models.words import AddedWords

# How far a box may lie from the centre of what its query attends to, in sides of the picture; and the logit of the
# width and height that boxes have at first, a fifth of a side.
_FARTHEST, _FIRST_SIZE = 0.25, -1.4


class _Shape(Protocol):
    @property
    def num_patches(self) -> int: ...

    @property
    def patch_dim(self) -> int: ...


class _VisionPlan(Protocol):
    @property
    def shape(self) -> _Shape: ...

    @property
    def llm_dim(self) -> int: ...

    @property
    def takes(self) -> str: ...


class _ComponentPlan(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def config(self) -> dict[str, Any]: ...


class _ModelPlan(Protocol):
    """The part of ``ModelPlan`` (``medcap.checkpoints.build_model``) used here; this layer may not import it."""

    @property
    def vision(self) -> _VisionPlan: ...

    @property
    def further(self) -> Sequence[_ComponentPlan]: ...


def box_decoder(plan: _ModelPlan, width: int = 128, layers: int = 1, heads: int = 4) -> BoxDecoder:
    """Build the box head of a model.

    Args:
        plan: plan of the model.
        width: width of the head; a multiple of 4 and of ``heads``.
        layers: times that the query looks at the patches before the box is read off.
        heads: attention heads.

    Returns:
        The head, with random weights.

    Raises:
        UserError: if an option is impossible, the words lack ``<BOX>``, or the projector takes no patch tokens.
    """
    for name, value in {"width": width, "layers": layers, "heads": heads}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"box_decoder.{name}={value!r} must be a positive whole number")
    if width % 4 or width % heads:
        raise UserError(f"box_decoder.width={width} must be a multiple of 4 and of box_decoder.heads={heads}")
    words = next((part.config["tokens"] for part in plan.further if part.name == AddedWords.name), ())
    if BOX_WORD not in words:
        raise UserError(
            f"box_decoder: a box is asked for by the word {BOX_WORD}, which this model does not have: add"
            f" words=[{BOX_WORD}], and {AddedWords.name} to trainable"
        )
    if plan.vision.takes != "patches":
        raise UserError(
            "box_decoder looks at patch tokens, but the projector takes one vector of an image: use another projector,"
            " such as projector=medcap.models.mlp"
        )
    shape = plan.vision.shape
    if math.isqrt(shape.num_patches) ** 2 != shape.num_patches:
        raise UserError(
            f"box_decoder: the tower gives {shape.num_patches} patch tokens, which are not a square: it cannot say"
            " where each of them is"
        )
    return BoxDecoder(plan.vision.llm_dim, shape.patch_dim, shape.num_patches, width, layers, heads)


class BoxDecoder(Component):
    """One box of a hidden state and an image, and whether the image shows what the box is asked of.

    The hidden state that predicts ``<BOX>`` becomes a query, which looks at the patch tokens of the image and then
    scores them. The box begins at the mean of the patches' centres, weighed by the softmax of the scores, so that its
    place follows what the query attends to from the first step on. The patch tokens' mean with the same weights and the
    query give a small shift from there, and the size. They also say whether the image shows it at all, together with
    the highest score: the softmax keeps only differences of the scores, and so cannot say that none of them is high.

    Args:
        dim: width d of a hidden state.
        patch_dim: width D of a patch token.
        num_patches: patch tokens of a picture, T; they are a square grid, row after row.
        width: width of the head.
        layers: times that the query looks at the patches.
        heads: attention heads.
    """

    name = "box_decoder"
    label = "box head"
    builder = "medcap.models.box_decoder.box_decoder"
    loss_terms = (BOX_L1, BOX_GIOU, BOX_SEEN)
    # The weights of DETR (https://arxiv.org/abs/2005.12872).
    loss_weights: ClassVar[Mapping[str, float]] = {BOX_L1: 5.0, BOX_GIOU: 2.0, BOX_SEEN: 1.0}
    reads_patches = needs_words = True

    def __init__(self, dim: int, patch_dim: int, num_patches: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.width, self.num_layers, self.heads = width, layers, heads
        self.grid = math.isqrt(num_patches)
        self.query = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))
        self.patches = nn.Sequential(nn.LayerNorm(patch_dim), nn.Linear(patch_dim, width))
        self.layers = nn.ModuleList(_Look(width, heads) for _ in range(layers))
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.value_norm = nn.LayerNorm(width)
        self.read = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 4))
        self.seen = nn.Sequential(nn.Linear(2 * width + 1, width), nn.GELU(), nn.Linear(width, 1))
        self._final_norm: list[nn.Module] = []  # the decoder's; not a part of this module

    def config(self) -> dict[str, Any]:
        """Return the function's name and its options."""
        return {"_component_": self.builder, "width": self.width, "layers": self.num_layers, "heads": self.heads}

    @classmethod
    def summary(cls, config: Mapping[str, Any]) -> str:
        """Name the size."""
        layers = config["layers"]
        return f"{layers} layer{'' if layers == 1 else 's'} of width {config['width']}"

    def attach(self, model: nn.Module) -> None:
        """Keep the decoder's final norm, which comes before the head."""
        self._final_norm = [model.get_submodule("decoder.norm")]

    def forward(self, hidden: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Give boxes, and whether they are there.

        Args:
            hidden: ``[M, d]`` hidden states before the decoder's final norm.
            patches: ``[M, T, D]`` patch tokens of the picture that each of them is about.

        Returns:
            ``[M, 4]`` float32: left, top, right and bottom in shares of the picture; edges may lie outside it. And
            ``[M]`` float32: positive where the picture shows what the box is asked of, else negative; the sigmoid of it
            is the probability.
        """
        query = self.query(self._final_norm[0](hidden).float())[:, None]  # [M, 1, w]
        centres = _centres(self.grid, patches.device)  # [T, 2]
        tokens = self.patches(patches.float()) + _positions(centres, self.width)  # [M, T, w]
        for layer in self.layers:
            query = layer(query, tokens)
        scores = self.key(tokens) @ query.mT / math.sqrt(self.width)  # [M, T, 1]
        weights = scores.softmax(dim=1)
        found = self.value_norm((weights * self.value(tokens)).sum(dim=1))  # [M, w]
        both = torch.cat([found, query[:, 0]], dim=-1)  # [M, 2w]
        shift, size = self.read(both).chunk(2, dim=-1)  # [M, 2] each
        centre = (weights * centres).sum(dim=1) + _FARTHEST * shift.tanh()  # [M, 2]
        half = (size + _FIRST_SIZE).sigmoid() / 2  # [M, 2]
        seen = self.seen(torch.cat([both, scores.amax(dim=1)], dim=-1))[:, 0]  # [M]
        return torch.cat([centre - half, centre + half], dim=-1), seen

    def losses(self, batch: Batch, hidden: Tensor, patches: Tensor | None) -> dict[str, Tensor]:
        """Compare the boxes of a batch with its targets."""
        wanted, there = batch.box_targets, batch.box_seen
        if wanted is None or there is None or batch.box_positions is None or batch.box_images is None:
            return dict.fromkeys(self.loss_terms, torch.zeros((), device=hidden.device))
        # On first use: runs without a box head need not wait for torchvision.
        from torchvision.ops import generalized_box_iou_loss

        assert patches is not None, "every box lies on a picture of the batch"
        predicts = torch.searchsorted(batch.target_positions, batch.box_positions)  # [M]
        found, seen = self(hidden[predicts], patches[batch.box_images])  # [M, 4], [M]
        distance = functional.l1_loss(_centre_and_size(found), _centre_and_size(wanted), reduction="none")  # [M, 4]
        return {
            # A box that is not there has no right place.
            BOX_L1: (distance.sum(dim=1) * there).sum(),
            BOX_GIOU: (generalized_box_iou_loss(found, wanted) * there).sum(),
            BOX_SEEN: functional.binary_cross_entropy_with_logits(seen, there, reduction="sum"),
        }


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


def _centres(grid: int, device: torch.device) -> Tensor:
    """Return the centres of a grid's cells, row after row, in shares of the picture: ``[T, 2]``, x before y."""
    axis = (torch.arange(grid, device=device) + 0.5) / grid
    return torch.stack([axis.repeat(grid), axis.repeat_interleave(grid)], dim=1)


def _positions(centres: Tensor, width: int) -> Tensor:
    """Return sines and cosines of the centres, of four wavelengths a picture and shorter: ``[T, w]``."""
    count = width // 4
    frequencies = math.pi * torch.exp2(torch.linspace(0, 4, count, device=centres.device))  # [w / 4]
    angles = centres[..., None] * frequencies  # [T, 2, w / 4]
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _centre_and_size(boxes: Tensor) -> Tensor:
    """``[M, 4]`` edges -> centres, widths and heights, as DETR compares them."""
    first, second = boxes.chunk(2, dim=1)
    return torch.cat([(first + second) / 2, second - first], dim=1)
