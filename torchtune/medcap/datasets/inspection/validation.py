"""Check a data file against every rule of training: which rows are bad, which rows and images occur twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medcap.datasets.inspection.lengths import describe_lengths
from medcap.datasets.inspection.rows import RULES
from medcap.datasets.inspection.survey import Survey
from medcap.datasets.rows.json_file import JsonRows
from medcap.errors import UserError
from medcap.files import atomic_file

MOST_LISTED = 1000  # groups of what is in a file twice, or in both files
FIX_SUFFIXES = (".json", ".jsonl")


@dataclass
class Overlap:
    """What the file has in common with another.

    Attributes:
        other: the other file.
        rows: rows of this file that are in the other, too, and one of that file's for each; the first ones.
        num_rows: how many there are.
        images: image files of this one whose content is in the other, as (first row here, first row there).
        num_images: how many there are.
        unusable: rows of the other file that could not be compared as a whole.
    """

    other: Survey
    rows: list[tuple[int, int]] = field(default_factory=list)
    num_rows: int = 0
    images: list[tuple[int, int]] = field(default_factory=list)
    num_images: int = 0
    unusable: int = 0


@dataclass
class Validation:
    """What there is to say of a file.

    Attributes:
        survey: its rows and images.
        same_rows: groups of rows that say and show the same, the first ones.
        num_repeated_rows: rows other than the first of each group.
        same_images: the first rows of image files that show the same, group by group.
        num_repeated_images: image files other than the first of each group.
        overlap: overlap with another file, if one was given.
    """

    survey: Survey
    same_rows: list[list[int]]
    num_repeated_rows: int
    same_images: list[list[int]]
    num_repeated_images: int
    overlap: Overlap | None = None

    def bad_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that training refuses: ``row`` from 0, ``name``, ``rules`` and ``reason``."""
        for row, problems in self.survey.problems.items():
            yield {
                "row": row,
                "name": self.survey.checker.rows.name(row),
                "rules": list(dict.fromkeys(problem.rule for problem in problems)),
                "reason": "; ".join(problem.reason for problem in problems),
            }

    def rule_counts(self) -> dict[str, int]:
        """Count the rows that break each rule."""
        counts = Counter(rule for row in self.bad_rows() for rule in row["rules"])
        return {rule: counts[rule] for rule in RULES if counts[rule]}

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        survey, checker = self.survey, self.survey.checker
        token_rules = None
        if checker.tokenizer is not None:
            token_rules = {"max_seq_len": checker.max_seq_len, "num_image_tokens": checker.tokenizer.num_image_tokens}
        found = {
            "file": str(checker.rows.path),
            "rows": survey.num_rows,
            "token_rules": token_rules,
            "rules": self.rule_counts(),
            "bad_rows": list(self.bad_rows()),
            "repeated_rows": {"rows": self.num_repeated_rows, "groups": self.same_rows},
            "images": {
                "named": len(survey.files),
                "files": len(survey.first_rows),
                "repeated_files": self.num_repeated_images,
                "groups_by_first_row": self.same_images,
            },
            "lengths": self.lengths(),
        }
        tallies = {"boxes": survey.boxes, "masks": survey.masks, "regions": survey.regions}
        found |= {name: part for name, tally in tallies.items() if (part := tally.as_dict()) is not None}
        if self.overlap is not None:
            found["against"] = {
                "file": str(self.overlap.other.checker.rows.path),
                "rows": self.overlap.other.num_rows,
                "unusable_rows": self.overlap.unusable,
                "same_rows": self.overlap.num_rows,
                "row_pairs": self.overlap.rows,
                "same_images": self.overlap.num_images,
                "image_pairs_by_first_row": self.overlap.images,
            }
        return found

    def lengths(self) -> dict[str, Any] | None:
        """Return the lengths of the whole conversations, and how many of them are cut; None without a tokenizer."""
        whole = self.survey.lengths.get("whole")
        if whole is None:
            return None
        cut = int((whole > self.survey.checker.max_seq_len).sum())
        return {**describe_lengths(whole[whole > 0]), "rows_cut": cut}


def validate(survey: Survey, against: Survey | None = None) -> Validation:
    """Look for what is in a file twice, or in another file too.

    Args:
        survey: survey of the file, with its images decoded.
        against: survey of another file, with its images decoded.

    Returns:
        The findings.
    """
    rows = _groups(survey.contents())
    images = [survey.first_rows[group].tolist() for group in _groups(survey.images["content"])]
    found = Validation(
        survey,
        [group.tolist() for group in rows[:MOST_LISTED]],
        sum(len(group) - 1 for group in rows),
        images[:MOST_LISTED],
        sum(len(group) - 1 for group in images),
    )
    if against is not None:
        found.overlap = _compare(survey, against)
    return found


def _groups(numbers: np.ndarray) -> list[np.ndarray]:
    """Places of equal numbers that are not 0, two or more, in the order of their first place."""
    known = np.flatnonzero(numbers)
    _, inverse, counts = np.unique(numbers[known], return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[inverse] > 1)
    order = repeated[np.argsort(inverse[repeated], kind="stable")]
    cuts = np.flatnonzero(np.diff(inverse[order])) + 1
    groups = [known[group] for group in np.split(order, cuts)] if len(order) else []
    return sorted(groups, key=lambda group: int(group[0]))


def _compare(survey: Survey, other: Survey) -> Overlap:
    found = Overlap(other, unusable=int((other.words == 0).sum()))
    rows = _common(survey.contents(), other.contents())
    found.num_rows, found.rows = len(rows), [(here, there) for here, there in rows[:MOST_LISTED].tolist()]
    files = _common(survey.images["content"], other.images["content"])
    found.num_images = len(files)
    found.images = [
        (int(survey.first_rows[here]), int(other.first_rows[there])) for here, there in files[:MOST_LISTED].tolist()
    ]
    return found


def _common(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """``[c, 2]``: positions in ``here`` whose number, not 0, is in ``there``, and the first one of it there."""
    values, first = np.unique(there, return_index=True)
    if not len(values):
        return np.empty((0, 2), dtype=np.int64)
    positions = np.minimum(np.searchsorted(values, here), len(values) - 1)
    common = np.flatnonzero((values[positions] == here) & (here != 0))
    return np.stack([common, first[positions[common]]], axis=1)


def write_good_rows(survey: Survey, path: Path) -> int:
    """Write the rows that can be used, byte for byte as they are in the file.

    Where a row of several lines becomes one of JSONL, its line ends become blanks.

    Args:
        survey: survey of a JSON or JSONL file.
        path: ends in ``.jsonl`` (a row a line) or ``.json`` (an array); written whole or not at all.

    Returns:
        How many rows there are in it.

    Raises:
        UserError: if nothing is good, or the file cannot be written.
    """
    rows = survey.checker.rows
    assert isinstance(rows, JsonRows)
    good = survey.good_rows()
    if not len(good):
        raise UserError(f"--fix {path}: not one row can be used, nothing is written")
    array = path.suffix == ".json"
    try:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            file.write(b"[\n" if array else b"")
            for position, row in enumerate(good.tolist()):
                text = rows.text(row)
                if array:
                    file.write((b",\n" if position else b"") + text)
                else:
                    file.write(text.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n")
            file.write(b"\n]\n" if array else b"")
    except OSError as error:
        raise UserError(f"--fix {path} cannot be written: {error.strerror or error}") from error
    return len(good)
