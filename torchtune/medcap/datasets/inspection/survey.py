"""All rows of a file and all their images, each image once, as columns of numbers: some 50 bytes a row."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field, fields

import numpy as np

from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.datasets.inspection.boxes import BoxTally
from medcap.datasets.inspection.images import ImageChecker, ImageFacts, decode
from medcap.datasets.inspection.masks import MaskTally
from medcap.datasets.inspection.processes import over_rows
from medcap.datasets.inspection.rows import Problem, RowChecker, RowFacts, RowLengths

CRASHED = Problem("crash", "reading it ends the process (memory ran out?)")
LENGTHS = tuple(item.name for item in fields(RowLengths))


@dataclass
class Survey:
    """What a file holds.

    Attributes:
        checker: reads its rows.
        problems: row -> what is wrong with it, in the order of the rows.
        words: ``[n]`` uint64: a number for what is said in each row, 0 where nothing is known of it.
        starts: ``[n + 1]`` int64: the images that row i names are ``starts[i]`` to ``starts[i + 1]``.
        files: ``[m]`` int64: which of the image files each of them is.
        first_rows: ``[f]`` int64: the first row that names each image file.
        images: facts about each image file: ``content`` uint64, ``width`` and ``height`` int64, ``format`` text.
        lengths: values by the names of ``RowLengths``, ``[n]`` int64, 0 for rows that cannot be used; empty without a
            tokenizer.
        boxes: the boxes of its rows, counted.
        masks: the masks of its rows, counted.
        regions: the regions of its rows, counted.
    """

    checker: RowChecker
    problems: dict[int, list[Problem]]
    words: np.ndarray
    starts: np.ndarray
    files: np.ndarray
    first_rows: np.ndarray
    images: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray]
    boxes: BoxTally = field(default_factory=BoxTally)
    masks: MaskTally = field(default_factory=MaskTally)
    regions: MaskTally = field(default_factory=lambda: MaskTally("regions"))

    @property
    def num_rows(self) -> int:
        """Rows, good and bad."""
        return len(self.words)

    def good_rows(self) -> np.ndarray:
        """``[g]`` int64: the rows that can be used."""
        good = np.ones(self.num_rows, dtype=bool)
        good[list(self.problems)] = False
        return np.flatnonzero(good)

    def rows_of(self, mentions: np.ndarray) -> np.ndarray:
        """Return the row that each of some named images is in.

        Args:
            mentions: indices in ``files``.
        """
        return np.searchsorted(self.starts, mentions, side="right") - 1

    def contents(self) -> np.ndarray:
        """``[n]`` uint64: a number for the words and images of each row, wherever its images are; 0 where unknown."""
        mixed = self.words.copy()
        shown = self.images["content"][self.files]
        counts = np.diff(self.starts)
        for position in range(int(counts.max(initial=0))):
            rows = np.flatnonzero(counts > position)
            # Wraps around at 64 bits; the factor is odd, so that no two states become one.
            mixed[rows] = (mixed[rows] ^ shown[self.starts[rows] + position]) * np.uint64(0x9E3779B97F4A7C15)
        mixed[self.words == 0] = 0
        mixed[list(self.problems)] = 0
        return mixed


def survey(
    checker: RowChecker,
    processes: int,
    look: Callable[[ImageReader, ImageRef], ImageFacts] = decode,
    label: str = "checking",
) -> Survey:
    """Read every row, then look at every image file that they name, once.

    Args:
        checker: reads the rows.
        processes: how many work at it.
        look: what is done with an image.
        label: what the progress bars say.

    Returns:
        The survey. Besides the columns, only problems take memory.
    """
    found = _Columns()
    rows = np.arange(len(checker.rows))
    for facts in over_rows(checker, rows, processes, f"{label} rows", lambda index: RowFacts(CRASHED)):
        found.add(facts)
    starts = np.concatenate([[0], np.cumsum(found.counts, dtype=np.int64)]).astype(np.int64)
    paths = np.array(found.paths, dtype=np.uint64)
    _, first, files = np.unique(paths, return_index=True, return_inverse=True)
    # Files are numbered in the order in which they are first named.
    order = np.argsort(first)
    numbers = np.empty_like(order)
    numbers[order] = np.arange(len(order))
    files, first = numbers[files].astype(np.int64), first[order]
    result = Survey(
        checker,
        found.problems,
        np.array(found.words, dtype=np.uint64),
        starts,
        files,
        np.searchsorted(starts, first, side="right") - 1,
        {},
        {name: np.array(column, dtype=np.int64) for name, column in found.lengths.items()} if checker.tokenizer else {},
        found.boxes,
        found.masks,
        found.regions,
    )
    _look_at_images(result, first, processes, look, label)
    return result


class _Columns:
    """Grows row by row."""

    def __init__(self) -> None:
        self.problems: dict[int, list[Problem]] = {}
        self.words, self.counts, self.paths = array("Q"), array("q"), array("Q")
        self.lengths = {name: array("q") for name in LENGTHS}
        self.boxes, self.masks, self.regions = BoxTally(), MaskTally(), MaskTally("regions")

    def add(self, facts: RowFacts) -> None:
        self.boxes.add(len(self.words), facts.boxes)
        self.masks.add(len(self.words), facts.masks)
        self.regions.add(len(self.words), facts.regions)
        if facts.problem is not None:
            self.problems[len(self.words)] = [facts.problem]
        self.words.append(facts.words)
        self.counts.append(len(facts.images))
        self.paths.extend(facts.images)
        values = astuple(facts.lengths) if facts.lengths is not None else (0,) * len(LENGTHS)
        for column, value in zip(self.lengths.values(), values, strict=True):
            column.append(value)


def _look_at_images(
    result: Survey, first: np.ndarray, processes: int, look: Callable[[ImageReader, ImageRef], ImageFacts], label: str
) -> None:
    wanted = np.zeros(len(result.files), dtype=bool)
    wanted[first] = True
    looking = ImageChecker(result.checker, look, result.starts, wanted)
    sizes, content, formats = (array("q"), array("q")), array("Q"), []
    reasons: dict[int, str] = {}
    rows = np.unique(result.first_rows)
    for facts in _each(over_rows(looking, rows, processes, f"{label} images", looking.crashed)):
        if facts.reason is not None:
            reasons[len(content)] = facts.reason
        content.append(facts.content)
        formats.append(facts.format)
        sizes[0].append(facts.width)
        sizes[1].append(facts.height)
    result.images = {
        "content": np.array(content, dtype=np.uint64),
        "width": np.array(sizes[0], dtype=np.int64),
        "height": np.array(sizes[1], dtype=np.int64),
        "format": np.array(formats, dtype=np.str_),
    }
    damaged = np.zeros(len(content), dtype=bool)
    damaged[list(reasons)] = True
    for mention in np.flatnonzero(damaged[result.files]).tolist():
        problem = Problem("image", reasons[int(result.files[mention])])
        row = int(result.rows_of(np.array(mention)))
        # Boxes and masks need the image's size, so what is wrong with the image was their problem too.
        listed = [other for other in result.problems.get(row, []) if other.reason != problem.reason]
        result.problems[row] = [*listed, problem]
    result.problems = dict(sorted(result.problems.items()))


def _each(results: Iterator[list[ImageFacts]]) -> Iterator[ImageFacts]:
    for facts in results:
        yield from facts
