import numpy as np
import pytest

from medcap.probe.scores import Answers, accuracy, balanced_accuracy, difference, macro_auroc


def answers(scores, labels, damaged=None, classes="abc", groups=None):
    count = len(labels)
    damaged = np.zeros(count, dtype=bool) if damaged is None else np.array(damaged)
    groups = range(count) if groups is None else groups
    return Answers(np.array(list(classes)), np.array(scores, dtype=float), np.array(labels), damaged, list(groups))


def test_an_image_that_cannot_be_read_is_wrong_whatever_its_scores():
    own = answers([[3, 1, 0], [0, 5, 1], [9, 0, 0]], ["a", "b", "a"], [False, False, True])
    assert own.predictions == ["a", "b", None]
    assert list(own.right) == [True, True, False]
    assert accuracy(own.right, own.groups).value == pytest.approx(2 / 3)
    assert balanced_accuracy(own.right, own.labels, own.groups).value == pytest.approx((1 / 2 + 1) / 2)


def test_scores_are_those_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    generator = np.random.default_rng(0)
    labels = np.array(list("aaabbbbcccccc" * 5))
    scores = np.round(generator.normal(size=(len(labels), 3)) + 1.5 * (labels[:, None] == np.array(list("abc"))), 1)
    own = answers(scores, labels)
    expected = np.mean([roc_auc_score(labels == label, scores[:, position]) for position, label in enumerate("abc")])
    found = macro_auroc(own)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    balanced = balanced_accuracy(own.right, own.labels, own.groups)
    assert balanced.value == pytest.approx(balanced_accuracy_score(labels, own.predictions))
    assert balanced.low < balanced.value < balanced.high


def test_of_two_classes_there_is_one_curve_and_a_damaged_image_is_its_worst_point():
    scores = [[-4, 4], [-3, 3], [-2, 2], [-1, 1]]
    assert macro_auroc(answers(scores, ["y", "y", "n", "n"], classes="ny")).value == 1.0
    broken = macro_auroc(answers(scores, ["y", "y", "n", "n"], [True, False, False, False], classes="ny"))
    assert broken.value == 0.5
    assert macro_auroc(answers(scores, ["y", "y", "y", "y"], classes="ny")) is None


def test_images_of_one_patient_are_drawn_together():
    right = np.array([1] * 50 + [0] * 50, dtype=float)
    apart = accuracy(right, range(100))
    together = accuracy(right, [number // 25 for number in range(100)])
    assert apart.value == together.value == 0.5
    assert (together.low, together.high) == (0.0, 1.0)
    assert apart.high - apart.low < 0.25
    scores = np.stack([np.zeros(100), right], axis=1)
    labels = np.where(np.arange(100) % 2 == 0, "y", "n")
    grouped = macro_auroc(answers(scores, labels, classes="ny", groups=[number // 50 for number in range(100)]))
    assert grouped.value == pytest.approx(0.5)


def test_the_comparison_pairs_images():
    first = np.array([True] * 10 + [False] * 30)
    second = np.array([False] * 2 + [True] * 28 + [False] * 10)
    found = difference(first, second, range(40), ("before", "after"))
    assert found.interval.value == pytest.approx(18 / 40)
    assert (found.first_only, found.second_only, found.test) == (2, 20, "mcnemar_exact")
    assert found.p == pytest.approx(2 * sum((1, 22, 231)) / 2**22)
    assert found.words == "after is better by 45.0 points: the interval excludes 0."
    by_patient = difference(first, second, [number // 2 for number in range(40)], ("before", "after"))
    assert by_patient.test == "sign_flip" and by_patient.interval.value == found.interval.value


def test_all_right_is_not_certain_and_counts_patients_not_images():
    right = np.ones(10)
    assert accuracy(right, range(10)).low == pytest.approx(0.7225, abs=5e-5)
    assert accuracy(right, ["one patient"] * 10).low == pytest.approx(0.2065, abs=5e-5)
    assert accuracy(np.zeros(10), [number // 5 for number in range(10)]).high == pytest.approx(0.6576, abs=5e-5)
    labels = np.array(["a"] * 8 + ["b"] * 2)
    # As of 4 / (1/8 + 1/2) = 6.4 rows; two patients tell as much as two rows.
    assert balanced_accuracy(right, labels, range(10)).low == pytest.approx(0.6249, abs=5e-5)
    assert balanced_accuracy(right, labels, [number % 2 for number in range(10)]).low == pytest.approx(0.3424, abs=5e-5)


def test_a_perfect_curve_is_not_certain():
    scores = np.repeat([[0, 1], [1, 0]], [30, 20], axis=0)
    found = macro_auroc(answers(scores, ["y"] * 30 + ["n"] * 20, classes="ny"))
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(0.8389, abs=5e-5), 1.0)
    three = macro_auroc(answers(np.eye(3).repeat(4, axis=0), list("aaaabbbbcccc")))
    assert (three.value, three.low) == (1.0, pytest.approx(0.5101, abs=5e-5))


def test_encoders_that_answer_alike_differ_by_an_interval_with_a_width():
    same = np.array([True] * 6)
    found = difference(same, same, range(6), ("before", "after"))
    assert (found.interval.low, found.interval.high) == pytest.approx((-0.3903, 0.3903), abs=5e-5)
    assert found.words == "before and after score the same on every row."
    found = difference(~same, same, range(6), ("before", "after"))
    assert (found.interval.low, found.interval.high) == pytest.approx((0.6097, 1.0), abs=5e-5)


def test_a_draw_without_a_curve_is_left_out_and_does_not_count_as_zero():
    # Half of the draws of two patients, who have one class each, hold one class only.
    labels, scores = ["y", "y", "n", "n"], [[-4, 4], [-1, 1], [-2, 2], [0, 0]]
    found = macro_auroc(answers(scores, labels, classes="ny", groups=["p", "p", "q", "q"]))
    assert (found.value, found.low, found.high) == (0.75, 0.75, 0.75)


def test_a_class_that_a_draw_lacks_is_left_out_of_its_mean():
    # Class c has one image of seven: a third of the draws lack it, and their mean is that of a and b.
    labels = list("aaabbbc")
    found = macro_auroc(answers(np.eye(3)[["abc".index(label) for label in labels]], labels))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.draws == 0  # all draws alike: Wilson's interval, and not one down to 2 / 3
