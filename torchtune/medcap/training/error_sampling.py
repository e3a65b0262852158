"""Draw the sources of a mixture more often on which the model's loss is larger, as CURE does (arXiv 2601.15408)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from medcap.datasets.mixture import MixedDataset
from medcap.errors import UserError
from medcap.training.data import LoadedBatches, TrainingData
from medcap.training.keys import ErrorSampling

# A source is drawn at most so many times as often as the configuration says, and no more seldom than its inverse.
MOST = 4.0


class SourceShares:
    """The shares of the sources, which change every so many steps.

    An epoch is as long as its shares stay the same. The samples of a packed epoch are chosen by how many of them its
    rows hold under the first shares, so it is about that long.

    Args:
        keys: how the shares change.
        data: the batches of the run; its dataset gets epochs of that length.

    Raises:
        UserError: if there are not several sources, the length of an epoch is given twice, or an epoch is too small for
            the weight of a source.
    """

    def __init__(self, keys: ErrorSampling, data: TrainingData) -> None:
        mixture = data.dataset
        if not isinstance(mixture, MixedDataset) or len(mixture.parts) < 2:
            raise UserError(
                "sample_by_error.every_n_steps: the sources whose shares change are those of dataset.sources: name two"
                " or more there, or remove it"
            )
        if data.cfg.dataset.get("epoch_samples") is not None:
            raise UserError(
                "dataset.epoch_samples and sample_by_error.every_n_steps both say how long an epoch is: remove one of"
                " them"
            )
        assert keys.every_n_steps is not None, "made only where it is given"
        self.keys, self.data, self.mixture = keys, data, mixture
        items = keys.every_n_steps * data.items_per_step
        samples = round(mixture.epoch_samples * items / len(data.plan(0))) if mixture.packed else items
        mixture.divide(max(samples, 1))
        data.forget_lengths()

    def renew(
        self, epoch: int, mean_loss: Callable[[LoadedBatches], tuple[float, int] | None]
    ) -> tuple[str, dict[str, float]] | None:
        """Measure the loss on some rows of each source and change the shares.

        Args:
            epoch: the epoch that begins.
            mean_loss: computes the loss over batches, and the number of rows left out; None if it was asked to stop.

        Returns:
            A line for the user, and values for the log; None if it was asked to stop.
        """
        mixture, losses = self.mixture, []
        for source in range(len(mixture.parts)):
            found = mean_loss(self.data.batches_of(mixture.some_of(source, self.keys.samples)))
            if found is None:
                return None
            losses.append(found[0])
        if not all(map(math.isfinite, losses)):
            return "the shares of the sources stay: the loss on one of them is not finite", {}
        counts = mixture.reweigh(factors(losses, self.keys.strength), epoch)
        self.data.forget_lengths()
        parts, values = [], {}
        for name, loss, count in zip(mixture.names, losses, counts, strict=True):
            share = count / mixture.epoch_samples
            parts.append(f"{name} {share:.1%} (loss {loss:.4f})")
            values |= {f"source_loss/{name}": loss, f"source_share/{name}": share}
        return f"shares of the sources from now on: {', '.join(parts)}", values

    def state(self) -> list[Any]:
        """Return the shares of all epochs so far, for a checkpoint."""
        return [[first, counts] for first, counts in self.mixture.shares]

    def restore(self, state: Sequence[Any] | None) -> None:
        """Put back what :meth:`state` returned; a checkpoint of a run whose shares did not change has none."""
        if state is not None:
            self.mixture.shares = [(first, list(counts)) for first, counts in state]
            self.data.forget_lengths()


def factors(losses: Sequence[float], strength: float) -> list[float]:
    """Return what the weight of each source is multiplied by.

    Args:
        losses: mean loss of the model on each source, 0 or above.
        strength: exponent.

    Returns:
        ``(loss / mean of the losses) ** strength``, kept between 1 / ``MOST`` and ``MOST``; 1 for all if no loss is
        above 0.
    """
    mean = sum(losses) / len(losses)
    if mean <= 0:
        return [1.0] * len(losses)
    return [min(MOST, max(1 / MOST, (loss / mean) ** strength)) for loss in losses]
