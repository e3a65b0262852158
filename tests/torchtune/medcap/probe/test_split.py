from pathlib import Path

import pytest

from medcap.errors import UserError
from medcap.probe.examples import Example
from medcap.probe.split import check_apart, split


def example(number, label, group=None):
    path = Path(f"/images/{number}.png")
    return Example(f"{number}.png", path, {"label": label}, group or str(path))


def test_every_label_is_divided_in_proportion():
    examples = [example(number, "abbccccccc"[number % 10]) for number in range(100)]
    train, test = split(examples, 0.2, seed=0)
    counts = {label: sum(own.labels["label"] == label for own in test) for label in "abc"}
    assert counts == {"a": 2, "b": 4, "c": 14}
    assert len(train) == 80 and train == [own for own in examples if own not in test]
    assert split(examples, 0.2, seed=0) == (train, test)
    assert split(examples, 0.2, seed=1)[1] != test


def test_no_patient_is_on_both_sides():
    examples = [example(number, "ab"[number % 2], group=f"patient {number // 5}") for number in range(100)]
    train, test = split(examples, 0.25, seed=3)
    sides = [{own.group for own in part} for part in (train, test)]
    assert sides[0].isdisjoint(sides[1])
    assert (len(sides[0]), len(sides[1])) == (15, 5)


def test_a_part_without_images_is_refused():
    with pytest.raises(UserError, match=r"2 images or groups cannot be divided so that 0\.01 of them are apart"):
        split([example(0, "a"), example(1, "b")], 0.01, seed=0)


def test_images_and_patients_that_are_on_both_sides_are_refused():
    with pytest.raises(UserError, match=r"1 images of the test set are in the training set too, the first: 1\.png"):
        check_apart([example(0, "a"), example(1, "a")], [example(1, "a"), example(2, "a")])
    with pytest.raises(UserError, match="1 groups of the test set are in the training set too, the first: p"):
        check_apart([example(0, "a", "p")], [example(1, "a", "p"), example(2, "a", "p"), example(3, "a", "q")])
