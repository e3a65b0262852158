import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.metrics import cohen_kappa_score

from medcap.scoring.agreement import _kappas, agreement, score_agreement


def test_labels_are_counted_and_kappa_is_cohens():
    found = agreement(["R", "R", "R", "R", "W", "W"], ["R", "R", "R", "W", "R", "W"])
    assert found.labels == ["R", "W"]
    assert found.counts.tolist() == [[3, 1], [1, 1]]
    assert found.same.value == pytest.approx(4 / 6)
    # observed 4/6, expected (4*4 + 2*2) / 36 = 20/36.
    assert found.kappa.value == pytest.approx((4 / 6 - 20 / 36) / (16 / 36))
    assert found.kappa.low <= found.kappa.value <= found.kappa.high


@pytest.mark.filterwarnings("error")
def test_one_label_everywhere_has_no_kappa_and_no_warning():
    found = agreement(["R", "R"], ["R", "R"])
    assert found.counts.tolist() == [[2]]
    assert (found.kappa, found.same.value, found.as_dict()["kappa"]) == (None, 1.0, None)


def test_the_kappa_of_draws_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    for _ in range(20):
        first, second = generator.integers(0, 3, size=(2, 30))
        cells = np.eye(9)[first * 3 + second].sum(axis=0, keepdims=True)
        assert _kappas(cells)[0] == pytest.approx(cohen_kappa_score(first, second, labels=[0, 1, 2]))


def test_scores_agree_by_rank_and_weighted_kappa():
    found = score_agreement([8, 7, 5, 9], [7, 6, 4, 8])
    assert (found["n"], found["difference"]["value"], found["spearman"]) == (4, -1.0, 1.0)
    assert 0 < found["weighted_kappa"] < 1
    assert score_agreement([8, 8], [8, 8])["spearman"] is None


def test_rows_must_pair():
    with pytest.raises(ValueError, match="2 and 1 labels"):
        agreement(["R", "W"], ["R"])
