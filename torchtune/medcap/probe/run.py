"""A whole probe: read, divide, encode, fit a classifier for each target on each encoder, score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from medcap.data.images.reader import ImageReader
from medcap.data.images.roots import LimitKeys
from medcap.datasets.phantoms.writing import check_disjoint
from medcap.errors import UserError
from medcap.evaluation.predictions import dataset_fingerprint
from medcap.probe.classifier import Probe, fit
from medcap.probe.encoders import Encoder, Encoders, load_encoders
from medcap.probe.examples import Example, TableColumns, fingerprint, read_examples, spread, targets_of
from medcap.probe.features import BATCH_SIZE, Features, encode
from medcap.probe.scores import Answers, Difference, accuracy, balanced_accuracy, difference, macro_auroc
from medcap.probe.split import check_apart, split
from medcap.scoring.statistics import Interval

SIDES = ("before", "after")


@dataclass(frozen=True)
class ProbeOptions:
    """What is probed, on what and how.

    Attributes:
        train: source of labelled images.
        test: another; None to divide ``train``.
        test_fraction: share of the images or groups that is held out where ``train`` is divided.
        validation_fraction: share of the training images or groups, on which the regularisation is chosen.
        columns: table columns.
        targets: what to predict; none for everything that has labels.
        image_roots: folders of images.
        features: of ``medcap.probe.encoders.FEATURES``; None for what the run's projector takes.
        before: earlier run, as in ``load_encoders``.
        seed: seed of the divisions and the classifier.
        batch_size: images that are encoded together.
        device: device of the encoders.
    """

    train: Path
    test: Path | None = None
    test_fraction: float = 0.2
    validation_fraction: float = 0.2
    columns: TableColumns = field(default_factory=TableColumns)
    targets: Sequence[str] = ()
    image_roots: Sequence[Path] = ()
    features: str | None = None
    before: str | None = None
    seed: int = 0
    batch_size: int = BATCH_SIZE
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class Result:
    """A classifier on one encoder's features.

    Attributes:
        probe: the classifier.
        answers: answers to the test images.
        accuracy: share of right answers.
        balanced_accuracy: its mean over classes.
        auroc: its mean over classes.
    """

    probe: Probe
    answers: Answers
    accuracy: Interval
    balanced_accuracy: Interval
    auroc: Interval | None

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        scores = {"accuracy": self.accuracy, "balanced_accuracy": self.balanced_accuracy, "macro_auroc": self.auroc}
        shown = {name: own and {"value": own.value, **own.as_dict()} for name, own in scores.items()}
        regularisation = {"C": self.probe.strength, "validation_accuracy": self.probe.tried}
        return {**shown, **regularisation, "converged": self.probe.converged}


@dataclass(frozen=True)
class TargetResult:
    """One target.

    Attributes:
        target: its name.
        classes: labels of the training images with their counts.
        rows: test images that have a label.
        damaged: those of them that could not be read.
        unknown: those of them whose label no training image has.
        majority: share of right answers of always giving the most frequent training label.
        results: side -> result.
        difference: after minus before.
        images: names of the test images, in the order of the answers.
    """

    target: str
    classes: dict[str, int]
    rows: int
    damaged: int
    unknown: int
    majority: float
    results: dict[str, Result]
    difference: Difference | None
    images: list[str]


@dataclass(frozen=True)
class ProbeReport:
    """Everything that a probe found.

    Attributes:
        encoders: what was probed.
        options: how.
        train: the training images.
        test: the test images.
        problems: side of the data -> image and why it could not be read.
        targets: one result each.
        notices: lines that the user should see.
        seconds: seconds of the whole probe.
    """

    encoders: Encoders
    options: ProbeOptions
    train: list[Example]
    test: list[Example]
    problems: dict[str, list[tuple[str, str]]]
    targets: list[TargetResult]
    notices: list[str]
    seconds: float


def probe(run: str, options: ProbeOptions) -> ProbeReport:
    """Probe a run's encoder and the one that it began from.

    Args:
        run: run as in ``load_encoders``.
        options: see there.

    Returns:
        The report.

    Raises:
        UserError: if the run, the images or the labels cannot be used.
    """
    started = time.monotonic()
    train, test = _divide(options)
    targets = _targets(train, options.targets)
    encoders = load_encoders(run, options.features, options.before, options.device)
    both = {"before": encoders.before, "after": encoders.after}
    used: dict[str, Encoder] = {side: encoder for side, encoder in both.items() if encoder is not None}
    reader = ImageReader(options.image_roots, keys=LimitKeys("--image-root", None))
    encoded = {
        part: encode(examples, list(used.values()), reader, options.batch_size, f"{part} images")
        for part, examples in (("training", train), ("test", test))
    }
    results = []
    with tqdm(total=len(targets) * len(used), desc="classifiers", unit="fit", delay=1) as bar:
        for target in targets:
            results.append(_probe_target(target, train, test, encoded, list(used), options, bar))
    problems = {
        part: [(examples[position].image, reason) for position, reason in encoded[part].problems.items()]
        for part, examples in (("training", train), ("test", test))
    }
    notices = [*encoders.notices, *_notices(results)]
    return ProbeReport(encoders, options, train, test, problems, results, notices, time.monotonic() - started)


def _divide(options: ProbeOptions) -> tuple[list[Example], list[Example]]:
    if options.test is not None and all((side / "phantom.json").is_file() for side in (options.train, options.test)):
        check_disjoint(options.train, options.test)
    train = read_examples(options.train, options.columns, options.image_roots)
    if options.test is None:
        train, test = split(train, options.test_fraction, options.seed)
    else:
        test = read_examples(options.test, options.columns, options.image_roots)
        check_apart(train, test)
    train, test = spread(train, test)
    return train, test


def _targets(train: Sequence[Example], wanted: Sequence[str]) -> list[str]:
    known = targets_of(train)
    for target in wanted:
        if target not in known:
            raise UserError(f"--target {target} is no label of the training images; they have: {', '.join(known)}")
    return list(dict.fromkeys(wanted)) or known


def _probe_target(
    target: str,
    train: Sequence[Example],
    test: Sequence[Example],
    encoded: dict[str, Features],
    sides: Sequence[str],
    options: ProbeOptions,
    bar: tqdm[Any],
) -> TargetResult:
    broken = encoded["training"].problems
    rows = [position for position, example in enumerate(train) if target in example.labels and position not in broken]
    labels = np.array([train[position].labels[target] for position in rows])
    classes = {str(label): int((labels == label).sum()) for label in np.unique(labels)}
    if len(classes) < 2:
        found = next(iter(classes), None)
        raise UserError(f"target {target}: the training images that can be read have one label only ({found})")
    # Only of this target's labels, so that the validation images have them in proportion.
    own = [replace(train[row], labels={target: train[row].labels[target]}) for row in rows]
    _, chosen = split(own, options.validation_fraction, options.seed)
    held_out = np.isin([example.group for example in own], [example.group for example in chosen])

    asked = [position for position, example in enumerate(test) if target in example.labels]
    if not asked:
        raise UserError(f"target {target}: no test image has a label of it; leave it out of --target")
    right_labels = np.array([test[position].labels[target] for position in asked])
    damaged = np.array([position in encoded["test"].problems for position in asked])
    groups = [test[position].group for position in asked]
    results = {}
    for number, side in enumerate(sides):
        fitted = fit(encoded["training"].values[number][rows], labels, held_out, options.seed)
        scores = fitted.scores(encoded["test"].values[number][asked])
        answers = Answers(fitted.classes, scores, right_labels, damaged, groups)
        balanced = balanced_accuracy(answers.right, right_labels, groups)
        results[side] = Result(fitted, answers, accuracy(answers.right, groups), balanced, macro_auroc(answers))
        bar.update()
    compared = None
    if len(results) == 2:
        right = [results[side].answers.right for side in SIDES]
        compared = difference(right[0], right[1], groups, SIDES)
    return TargetResult(
        target=target,
        classes=classes,
        rows=len(asked),
        damaged=int(damaged.sum()),
        unknown=int((~np.isin(right_labels, list(classes))).sum()),
        majority=float((right_labels == max(classes, key=classes.__getitem__)).mean()),
        results=results,
        difference=compared,
        images=[test[position].image for position in asked],
    )


def _notices(results: Sequence[TargetResult]) -> list[str]:
    lines = []
    for result in results:
        if result.unknown:
            lines.append(
                f"{result.target}: {result.unknown:,} test images have a label that no training image has: wrong"
            )
        lines += [
            f"{result.target}, {side}: the classifier did not converge"
            for side, own in result.results.items()
            if not own.probe.converged
        ]
    return lines


def describe(report: ProbeReport) -> dict[str, Any]:
    """Return the report for ``metrics.json``."""
    options, encoders = report.options, report.encoders
    both = {"before": encoders.before, "after": encoders.after}
    return {
        "encoders": {side: own and own.name for side, own in both.items()},
        "checkpoint": encoders.checkpoint and str(encoders.checkpoint),
        "checkpoint_sha256": encoders.checkpoint and dataset_fingerprint(encoders.checkpoint),
        "settings": {
            "features": encoders.features,
            "train": str(options.train),
            "test": None if options.test is None else str(options.test),
            "test_fraction": options.test_fraction if options.test is None else None,
            "validation_fraction": options.validation_fraction,
            "group_column": options.columns.group,
            "seed": options.seed,
        },
        "data": {
            part: {
                "images": len(examples),
                "groups": len({example.group for example in examples}),
                "damaged": len(report.problems[part]),
                "fingerprint": fingerprint(examples),
            }
            for part, examples in (("training", report.train), ("test", report.test))
        },
        "damaged_images": {
            part: [{"image": image, "reason": reason} for image, reason in found]
            for part, found in report.problems.items()
        },
        "targets": {result.target: _describe_target(result) for result in report.targets},
        "notices": report.notices,
        "seconds": round(report.seconds, 1),
    }


def _describe_target(result: TargetResult) -> dict[str, Any]:
    compared = result.difference
    return {
        "training_labels": result.classes,
        "test_rows": result.rows,
        "damaged": result.damaged,
        "unknown_labels": result.unknown,
        "majority_accuracy": result.majority,
        **{side: own.as_dict() for side, own in result.results.items()},
        "difference": compared
        and {
            "accuracy": {"value": compared.interval.value, **compared.interval.as_dict()},
            "only_before_right": compared.first_only,
            "only_after_right": compared.second_only,
            "p": compared.p,
            "test": compared.test,
            "verdict": compared.words,
        },
    }
