import numpy as np
import pytest

from medcap.probe import classifier
from medcap.probe.classifier import fit


def clusters(classes, per_class, dim, spread, seed=0):
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(classes, dim))
    labels = np.repeat(np.arange(classes), per_class)
    features = centres[labels] + spread * generator.normal(size=(len(labels), dim))
    return features.astype(np.float32) * 50 + 7, np.array([f"class {label}" for label in labels])


@pytest.mark.slow
def test_the_fit_is_that_of_scikit_learn_with_the_chosen_strength_on_all_rows():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features, labels = clusters(3, 40, 5, 0.8)
    held_out = np.arange(len(labels)) % 4 == 0
    probe = fit(features, labels, held_out, seed=0)
    scaler = StandardScaler().fit(features.astype(float))
    plain = LogisticRegression(C=probe.strength, max_iter=5000, tol=1e-8).fit(scaler.transform(features), labels)
    expected = plain.predict_log_proba(scaler.transform(features))
    np.testing.assert_allclose(probe.scores(features), expected, atol=2e-3)
    assert list(probe.classes) == ["class 0", "class 1", "class 2"] and probe.converged


@pytest.mark.slow
def test_the_strength_is_the_best_on_the_held_out_rows_to_an_eighth_of_a_decade():
    features, labels = clusters(2, 60, 20, 3.0)
    held_out = np.arange(len(labels)) % 3 == 0
    probe = fit(features, labels, held_out, seed=0)
    assert probe.tried[probe.strength] == max(probe.tried.values())
    assert {1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6} <= set(probe.tried)
    steps = np.diff(np.log10(sorted(probe.tried)))
    assert np.isclose(steps.min(), 1 / 8) and np.allclose(steps * 8, np.round(steps * 8))


@pytest.mark.slow
def test_both_ways_of_solving_find_the_same_minimum(monkeypatch):
    features, labels = clusters(3, 40, 5, 0.8)
    held_out = np.arange(len(labels)) % 4 == 0
    newton = fit(features, labels, held_out, seed=0)
    monkeypatch.setattr(classifier, "_NEWTON_WEIGHTS", 0)
    descent = fit(features, labels, held_out, seed=0)
    assert np.isclose(newton.strength, descent.strength)
    np.testing.assert_allclose(newton.scores(features), descent.scores(features), atol=2e-2)


def test_a_class_that_only_held_out_rows_have_does_not_end_the_search():
    features, labels = clusters(3, 10, 4, 0.1)
    probe = fit(features, labels, labels == "class 2", seed=0)
    assert set(probe.tried.values()) == {0.0}
    assert list(probe.classes) == ["class 0", "class 1", "class 2"]
