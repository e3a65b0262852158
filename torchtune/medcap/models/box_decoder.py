"""A head that gives a box for each ``<BOX>`` of an answer, beside a language model that stays frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcap.data.batch import Batch
from medcap.data.boxes.style import BOX_WORD
from medcap.data.target_tensors import BOX_GIOU, BOX_L1, BOX_LOOK, BOX_SEEN
from medcap.models.model_plan import PlannedModel
from medcap.models.object_query import ObjectHead, Sought, check_plan, check_sizes, look_loss

# How far a box may lie from the centre of what its query attends to, in sides of the picture; and the logit of the
# width and height that boxes have at first, a fifth of a side.
_FARTHEST, _FIRST_SIZE = 0.25, -1.4


def box_decoder(plan: PlannedModel, width: int = 128, layers: int = 1, heads: int = 4) -> BoxDecoder:
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
    check_sizes(BoxDecoder.name, width, layers, heads)
    check_plan(BoxDecoder.name, "a box", BOX_WORD, plan)
    shape = plan.vision.shape
    return BoxDecoder(plan.vision.llm_dim, shape.patch_dim, shape.num_patches, width, layers, heads)


class BoxDecoder(ObjectHead):
    """One box of a hidden state and an image, and whether the image shows what the box is asked of.

    The hidden state that predicts ``<BOX>`` looks for the object. The box begins at the mean of the patches' centres,
    weighed by the softmax of the scores, so that its place follows what the query attends to from the first step on.
    The patch tokens' mean with the same weights and the query give a small shift from there, and the size.

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
    loss_terms = (BOX_L1, BOX_GIOU, BOX_SEEN, BOX_LOOK)
    # The first two are the weights of DETR (https://arxiv.org/abs/2005.12872).
    loss_weights: ClassVar[Mapping[str, float]] = {BOX_L1: 5.0, BOX_GIOU: 2.0, BOX_SEEN: 1.0, BOX_LOOK: 2.0}

    def __init__(self, dim: int, patch_dim: int, num_patches: int, width: int, layers: int, heads: int) -> None:
        super().__init__(dim, patch_dim, num_patches, width, layers, heads)
        self.read = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 4))

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
        sought = self.seek(hidden, patches)
        return self._box(sought), sought.seen

    def _box(self, sought: Sought) -> Tensor:
        """Read boxes off, ``[M, 4]``."""
        shift, size = self.read(torch.cat([sought.features, sought.query], dim=-1)).chunk(2, dim=-1)  # [M, 2] each
        centre = sought.weights @ self.look.centres(sought.weights.device) + _FARTHEST * shift.tanh()  # [M, 2]
        half = (size + _FIRST_SIZE).sigmoid() / 2  # [M, 2]
        return torch.cat([centre - half, centre + half], dim=-1)

    def losses(self, batch: Batch, hidden: Tensor, patches: Tensor | None) -> dict[str, Tensor]:
        """Compare the boxes of a batch with its targets."""
        wanted, there = batch.box_targets, batch.box_seen
        if wanted is None or there is None or batch.box_positions is None or batch.box_images is None:
            return dict.fromkeys(self.loss_terms, torch.zeros((), device=hidden.device))
        assert patches is not None, "every box lies on a picture of the batch"
        predicts = torch.searchsorted(batch.target_positions, batch.box_positions)  # [M]
        sought = self.seek(hidden[predicts], patches[batch.box_images])
        found = self._box(sought)  # [M, 4]
        distance = functional.l1_loss(_centre_and_size(found), _centre_and_size(wanted), reduction="none")  # [M, 4]
        return {
            # A box that is not there has no right place.
            BOX_L1: (distance.sum(dim=1) * there).sum(),
            BOX_GIOU: (_overlap_loss(found, wanted) * there).sum(),
            BOX_SEEN: functional.binary_cross_entropy_with_logits(sought.seen, there, reduction="sum"),
            BOX_LOOK: look_loss(sought.scores, _covered(wanted, self.look.grid)).sum(),
        }


def _overlap_loss(found: Tensor, wanted: Tensor, eps: float = 1e-7) -> Tensor:
    """Return one minus the generalised IoU (https://arxiv.org/abs/1902.09630): two times ``[M, 4]`` -> ``[M]``.

    torchvision's function looks for the boxes that overlap, for which a GPU makes the host wait.
    """
    # Not ``prod``: its gradient looks for zeros, and waits too.
    width, height = (torch.minimum(found[:, 2:], wanted[:, 2:]) - torch.maximum(found[:, :2], wanted[:, :2])).unbind(1)
    inside = torch.where((width > 0) & (height > 0), width * height, 0.0)  # [M]
    union = _area(found[:, 2:] - found[:, :2]) + _area(wanted[:, 2:] - wanted[:, :2]) - inside
    hull = _area(torch.maximum(found[:, 2:], wanted[:, 2:]) - torch.minimum(found[:, :2], wanted[:, :2]))
    return 1 - (inside / (union + eps) - (hull - union) / (hull + eps))


def _area(sides: Tensor) -> Tensor:
    return sides[:, 0] * sides[:, 1]


def _covered(boxes: Tensor, grid: int) -> Tensor:
    """Return how much of each patch a box covers: ``[M, 4]`` -> ``[M, T]``."""
    edges = torch.arange(grid + 1, device=boxes.device) / grid
    first, last = edges[:-1], edges[1:]
    across, down = (
        (torch.minimum(boxes[:, end, None], last) - torch.maximum(boxes[:, start, None], first)).clamp(min=0) * grid
        for start, end in ((0, 2), (1, 3))
    )  # [M, g] each
    return (down[:, :, None] * across[:, None]).flatten(1)


def _centre_and_size(boxes: Tensor) -> Tensor:
    """``[M, 4]`` edges -> centres, widths and heights, as DETR compares them."""
    first, second = boxes.chunk(2, dim=1)
    return torch.cat([(first + second) / 2, second - first], dim=1)
