"""The linear classifier: logistic regression on standardised features, its regularisation chosen on held-out images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

MAX_ITERATIONS = 1000
_COARSE = tuple(range(-6, 7, 2))  # exponents of ten
_FINEST = 1 / 8
_NEWTON_WEIGHTS = 2000  # beyond, the matrix of second derivatives is too large
_LEAST = -1e3


@dataclass(frozen=True)
class Probe:
    """A fitted classifier.

    Attributes:
        classes: ``[c]`` labels.
        strength: the chosen C, the inverse of the L2 penalty.
        tried: each C and the accuracy on the validation images.
        converged: whether the last fit ended before ``MAX_ITERATIONS``.
        scores: maps features ``[n, d]`` to log-probabilities ``[n, c]``.
    """

    classes: np.ndarray
    strength: float
    tried: dict[float, float]
    converged: bool
    scores: Callable[[np.ndarray], np.ndarray]


def fit(features: np.ndarray, labels: np.ndarray, held_out: np.ndarray, seed: int) -> Probe:
    """Fit a multinomial logistic regression.

    C is sought as in CLIP's linear probes (Radford et al., 2021, https://arxiv.org/abs/2103.00020, appendix A.3):
    10^-6, 10^-4 ... 10^6 first, then by halving the interval around the best until there are 8 steps a decade, and at
    last a fit on training and validation images together. Among equally many right answers the lower log loss
    decides, then the stronger penalty. Small problems are solved by Newton's method, to the same minimum in a fraction
    of the time; others by L-BFGS, as there, with at most 1,000 iterations.

    Args:
        features: ``[n, d]``.
        labels: ``[n]``, two classes at least.
        held_out: ``[n]`` bool: the validation images.
        seed: seed of the classifier.

    Returns:
        The classifier.
    """
    tried: dict[float, tuple[float, float]] = {}

    def accuracy(exponent: float) -> tuple[float, float]:
        if exponent not in tried:
            model, _ = _fit(features[~held_out], labels[~held_out], 10.0**exponent, seed)
            tried[exponent] = _quality(model, features[held_out], labels[held_out])
        return tried[exponent]

    best = 0.0
    known = set(labels[~held_out])
    if len(known) > 1 and held_out.any():
        step, candidates = 2.0, list(_COARSE)
        while True:
            best = max(candidates, key=lambda exponent: (*accuracy(exponent), -exponent))
            step /= 2
            if step < _FINEST:
                break
            candidates = [best, max(best - step, _COARSE[0]), min(best + step, _COARSE[-1])]
    model, converged = _fit(features, labels, 10.0**best, seed)
    shown = {10.0**exponent: quality[0] for exponent, quality in sorted(tried.items())}
    return Probe(model.classes_, 10.0**best, shown, converged, lambda rows: _log_probabilities(model, rows))


def _fit(features: np.ndarray, labels: np.ndarray, strength: float, seed: int) -> tuple[Pipeline, bool]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    newton = features.shape[1] * len(np.unique(labels)) <= _NEWTON_WEIGHTS
    solver = "newton-cholesky" if newton else "lbfgs"
    classifier = LogisticRegression(C=strength, solver=solver, max_iter=MAX_ITERATIONS, random_state=seed)
    model = make_pipeline(StandardScaler(), classifier)
    # Products of small matrices take longer on several threads, which wait for each other: six times on two processors.
    with warnings.catch_warnings(), threadpool_limits(1 if newton else None, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # told by ``converged``
        model.fit(features.astype(np.float64) if newton else features, labels)
    return model, bool(classifier.n_iter_.max() < MAX_ITERATIONS)


def _quality(model: Pipeline, features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Share of right answers and negative log loss; a class that the fit has not seen counts as hardly possible."""
    logarithms = _log_probabilities(model, features)  # [n, c]
    column = {label: position for position, label in enumerate(model.classes_)}
    own = [logarithms[row, column[label]] if label in column else _LEAST for row, label in enumerate(labels)]
    right = model.classes_[logarithms.argmax(axis=1)] == labels
    return float(right.mean()), float(np.maximum(own, _LEAST).mean())


def _log_probabilities(model: Pipeline, features: np.ndarray) -> np.ndarray:
    """``[n, d]`` -> ``[n, c]``; unlike bare decision values they can be compared between images."""
    values = np.asarray(model.decision_function(features), dtype=np.float64)
    if values.ndim == 1:
        values = np.stack([np.zeros_like(values), values], axis=1)
    return values - np.logaddexp.reduce(values, axis=1, keepdims=True)
