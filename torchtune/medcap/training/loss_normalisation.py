"""Loss terms of a step: what each is divided by, and what it weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from medcap.data.batch import Batch
from medcap.errors import UserError


class LossWeights:
    """Turns the summed terms of many batches on many processes into one loss.

    The loss of a step is the sum over its terms of ``weight * sum / count``, with sum and count over all batches on all
    processes: a mean of means would weigh a short batch's tokens more. The counts are known before the forward pass, so
    each term gets its factor before the backward pass.

    A factor that all terms share is applied once, to the reduced gradients: with a single term nothing is multiplied
    in the backward pass, and the gradient is exactly that of the sum, scaled once.

    Args:
        terms: names of the model's loss terms, the same on every process.
        weights: the key ``losses``: name -> weight; a term without an entry weighs 1.
        defaults: what terms weigh where the key says nothing; 0 computes a term for the log alone.
        counted_as: the term whose count a term is divided by, where it has none of its own.

    Raises:
        UserError: for a weight of a term that the model does not have, one below 0, or if all are 0.
    """

    def __init__(
        self,
        terms: Sequence[str],
        weights: Mapping[str, float] | None = None,
        defaults: Mapping[str, float] | None = None,
        counted_as: Mapping[str, str] | None = None,
    ) -> None:
        given = dict(weights or {})
        for name, weight in given.items():
            if name not in terms:
                raise UserError(f"losses.{name}: this model has no such loss term; it has {', '.join(terms)}")
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
                raise UserError(f"losses.{name}={weight!r} must be a number of at least 0")
        self.terms = tuple(terms)
        given = {**(defaults or {}), **given}
        self._weights = [float(given.get(name, 1.0)) for name in self.terms]
        if not any(self._weights):
            raise UserError("losses: every term has the weight 0, so nothing would be learnt")
        self._counted_as = dict(counted_as or {})
        self.begin([0.0] * len(self.terms))

    def counts(self, batch: Batch) -> list[int]:
        """Return the count of each term in a batch."""
        return [batch.counts.get(self._counted_as.get(term, term), 0) for term in self.terms]

    def begin(self, counts: Sequence[float]) -> None:
        """Store the counts of a step.

        Args:
            counts: counts of each term, over all batches and processes.
        """
        self._counts = list(counts)
        self._factors = [weight / count if count else 0.0 for weight, count in zip(self._weights, counts, strict=True)]
        # The first term that occurs sets what is common; there is one in every step that is made.
        self.scale = next((factor for factor in self._factors if factor), 0.0)

    def combine(self, sums: Mapping[str, Tensor]) -> Tensor:
        """Combine a batch's terms into what the backward pass starts from; its gradient is still to be scaled.

        Args:
            sums: sums of each term, scalars.

        Returns:
            A scalar: the batch's share of the loss, divided by ``scale``; the first term where nothing was counted.
        """
        if not self.scale:
            return sums[self.terms[0]]
        shares = [
            sums[name] if factor == self.scale else sums[name] * (factor / self.scale)
            for name, factor in zip(self.terms, self._factors, strict=True)
            if factor
        ]
        return sum(shares[1:], start=shares[0])

    def values(self, sums: Sequence[float]) -> dict[str, float]:
        """Compute the loss of a step, and its terms where there are several.

        Args:
            sums: sums of each term, over all batches and processes.

        Returns:
            ``loss``, and ``loss_NAME`` for each of several terms, before they are weighed.
        """
        means = [value / count if count else 0.0 for value, count in zip(sums, self._counts, strict=True)]
        loss = sum(mean * weight for mean, weight in zip(means, self._weights, strict=True))
        if len(self.terms) == 1:
            return {"loss": loss}
        return {"loss": loss} | {f"loss_{name}": mean for name, mean in zip(self.terms, means, strict=True)}
