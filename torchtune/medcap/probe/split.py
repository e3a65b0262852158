"""Parts of a set of images that share no patient and have the same mixture of labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from medcap.errors import UserError
from medcap.plurals import counted
from medcap.probe.examples import Example


def split(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Divide images so that all images of a group are on one side.

    Groups are ordered by their most frequent labels, at random among equals, and drawn at even steps: each mixture of
    labels is on both sides in proportion, to within one group.

    Args:
        examples: any.
        fraction: fraction of the groups that go to the second part, above 0 and below 1.
        seed: seed of the order among equals.

    Returns:
        Both parts, each in the order of ``examples``.

    Raises:
        UserError: if a part would be empty.
    """
    members: dict[str, list[Example]] = {}
    for example in examples:
        members.setdefault(example.group, []).append(example)
    generator = np.random.default_rng(seed)
    ties = generator.random(len(members))
    offset = generator.random()
    mixtures = [_mixture(own) for own in members.values()]
    order = sorted(range(len(members)), key=lambda position: (mixtures[position], ties[position]))
    groups = list(members)
    second = {
        groups[position]
        for number, position in enumerate(order)
        if math.floor((number + 1) * fraction + offset) > math.floor(number * fraction + offset)
    }
    parts = ([e for e in examples if e.group not in second], [e for e in examples if e.group in second])
    if not all(parts):
        there = counted(len(members), "image or group", "images or groups")
        raise UserError(f"{there} cannot be divided so that {fraction:g} of them are apart")
    return parts


def check_apart(train: Sequence[Example], test: Sequence[Example]) -> None:
    """Refuse images or groups that are on both sides.

    Raises:
        UserError: naming the first one.
    """
    known = {example.group for example in train}
    shared = list(dict.fromkeys(example.group for example in test if example.group in known))
    paths = {example.path for example in train if example.path is not None}
    images = [example.image for example in test if example.path in paths]
    for what, found in (("images", images), ("groups", shared)):
        if found:
            raise UserError(f"{len(found):,} {what} of the test set are in the training set too, the first: {found[0]}")


def _mixture(examples: Sequence[Example]) -> list[tuple[str, str]]:
    """Return the most frequent label of each target, and of a column of several labels all that occur."""
    counts: dict[str, Counter[str]] = {}
    for example in examples:
        for target, label in example.labels.items():
            counts.setdefault(target, Counter())[label] += 1
        for column, labels in example.several.items():
            counts.setdefault(column, Counter())[" ".join(sorted(labels))] += 1
    return [(target, max(sorted(counter), key=counter.__getitem__)) for target, counter in sorted(counts.items())]
