"""What a task is: questions with their references, read from a benchmark's files."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.roots import LimitKeys
from medcap.data.images.view_keys import read_view
from medcap.errors import UserError
from medcap.evaluation.prompting import VQA_TYPES, ScoringPlan, plan_protocols
from medcap.evaluation.scored import RunOptions, Scored
from medcap.legacy.modes import MODES
from medcap.plurals import counted as count_of
from medcap.plurals import none_of
from medcap.scoring.question import BETWEEN_OPTIONS, Question

BENCHMARK_KEYS = LimitKeys("image_roots", None)  # of medcap/recipes/generate
_EVERYTHING = (None, -1)
LegacyTable = Callable[[Sequence[Question], Sequence[Scored], RunOptions], None]


@dataclass(frozen=True)
class LoadOptions:
    """How a benchmark is read. A task with further options has its own class, whose fields are recipe keys.

    Attributes:
        image_roots: folders that images may be in, besides those of the benchmark. For ``caption`` and ``vqa`` they
            replace the data file's folder and the working directory.
        work_folder: where images that are inside a parquet file are written, ``<output_dir>/<task>/images``.
        view: how images are looked at where a row does not say it; keys as in a row.
    """

    image_roots: Sequence[str | Path] | None = None
    work_folder: Path | None = None
    view: Mapping[str, Any] | None = None

    @classmethod
    def of_keys(cls, keys: Mapping[str, Any]) -> Self:
        """Take each option from the recipe key of its name.

        Args:
            keys: keys of a recipe; others are ignored.
        """
        return cls(**{option.name: keys[option.name] for option in fields(cls) if option.name in keys})


DEFAULTS = LoadOptions()


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as it was read.

    Attributes:
        rows: what is asked, in the order of the files. A row with a ``problem`` is a failure in every denominator.
        source: the benchmark's folder, or the file that was named.
        files: the data files that were read. Image files are not among them.
        sha256: over the names and contents of ``files``, whatever their order; 64 hexadecimal digits.
        expected: published counts, ``rows`` first; None where none is known.
        notices: what a reader of the scores must know.
        image_roots: folders that the rows' images lie in.
    """

    rows: list[Question]
    source: str
    files: list[Path]
    sha256: str
    expected: Mapping[str, int] | None = None
    notices: list[str] = field(default_factory=list)
    image_roots: list[Path] = field(default_factory=list)

    def first(self, limit: int | None) -> Self:
        """Return it with the first rows alone, and a notice that says so; the same where there are no more."""
        if limit is None or limit >= len(self.rows):
            return self
        asked = "row was" if limit == 1 else f"{limit:,} rows were"
        notice = f"only the first {asked} asked, of {len(self.rows):,} (limit={limit})"
        return replace(self, rows=self.rows[:limit], notices=[*self.notices, notice])


class Task(ABC):
    """A test that is run by ``test_<name>=true``.

    Attributes:
        name: the task's name, also that of its result folder.
        title: the name in words, for a page.
        protocols: names of the rules by which its answers are scored unless others are asked for; the first one
            gives the headline.
        mode_protocols: those that come before them under a mode of medcap 2024.
        vqa_types: values of the key ``vqa_type`` that it uses.
        Options: what :meth:`load` takes.
        legacy_table: function that writes medcap 2024's tables of its answers; None where there are none.

    Example:
        >>> benchmark = TASKS["vqarad"]().load("./datasets", LoadOptions())
        >>> len(benchmark.rows), benchmark.notices
        (451, [])
    """

    name: ClassVar[str]
    title: ClassVar[str]
    protocols: ClassVar[tuple[str, ...]]
    mode_protocols: ClassVar[tuple[str, ...]] = ()
    vqa_types: ClassVar[tuple[str, ...]] = VQA_TYPES
    Options: ClassVar[type[LoadOptions]] = LoadOptions
    legacy_table: LegacyTable | None = None

    def vqa_type(self, wanted: str) -> str:
        """Return the prompt method of its free answers.

        Args:
            wanted: value of the key ``vqa_type``.

        Returns:
            The same, or the task's first one where it does not use that.
        """
        return wanted if wanted in self.vqa_types else self.vqa_types[0]

    def plan(
        self, vqa_type: str, protocols: Sequence[str] | None = None, options: LoadOptions = DEFAULTS
    ) -> list[ScoringPlan]:
        """Plan how its answers are asked for and scored.

        Args:
            vqa_type: value of the key.
            protocols: names; None for the task's own.
            options: what will be read; a part of a benchmark may have rules of its own.

        Returns:
            A plan for each protocol; see :func:`medcap.evaluation.prompting.plan_protocols`.
        """
        vqa_type = self.vqa_type(vqa_type)
        if protocols is None:
            protocols = [*(self.mode_protocols if vqa_type in MODES else ()), *self.protocols]
        return plan_protocols(protocols, vqa_type, self.name)

    def folder(self, options: LoadOptions) -> str:
        """Return the name of its result folder; parts of a benchmark have their own, so they can run at once."""
        return self.name

    @abstractmethod
    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the benchmark.

        Args:
            source: a folder that holds the benchmark's own folder (medcap 2024's ``./datasets``), that folder itself,
                or a data file.
            options: see :class:`LoadOptions`.

        Returns:
            All of its test rows, those that cannot be asked included.

        Raises:
            UserError: if nothing of the expected names is there, a data file is damaged (the message names file and
                line), or no row at all can be asked.
        """


class ImageFinder:
    """Resolves the images of rows and remembers, instead of stopping, what was wrong with the last row's.

    Args:
        reader: resolves paths.
        view: how the images are looked at; keys as in a row.
    """

    def __init__(self, reader: ImageReader, view: Mapping[str, Any] | None = None) -> None:
        self.reader = reader
        self.view = read_view(view or {}, prefix="view.")
        self.problem: str | None = None
        self._known: dict[tuple[str, ...], tuple[ImageRef, str | None]] = {}

    def __call__(self, path: str, folder: str | None = None) -> Path:
        """Resolve ``path``; where that fails, set ``problem`` and return the path unchanged."""
        try:
            return self.reader.resolve(path, folder)
        except UserError as error:
            self.problem = str(error)
            return Path(folder or "", path)

    def first_of(self, *names: str) -> ImageRef:
        """Resolve the first of several names that exists, and set ``problem`` to None or to what fails.

        Args:
            names: paths that may stand for one image, such as a stem with several suffixes.

        Returns:
            The image, or the first name unchanged.
        """
        # Many questions are asked about one image; each look at the disk costs as much as parsing a row.
        if names not in self._known:
            problems = []
            for name in names:
                self.problem = None
                path = self(name)
                if self.problem is None:
                    break
                problems.append(self.problem)
            else:
                path, self.problem = Path(names[0]), problems[0]
            self._known[names] = ImageRef(str(path), self.view), self.problem
        image, self.problem = self._known[names]
        return image


def image_reader(source: str | Path, image_roots: Sequence[str | Path] | None = None) -> ImageReader:
    """Return the reader of a data file's images.

    Args:
        source: the data file.
        image_roots: folders that images may be in; by default the file's own and the working directory.

    Returns:
        A reader with these roots.
    """
    roots = [Path(source).parent, Path.cwd()] if image_roots is None else image_roots
    return ImageReader(roots, keys=BENCHMARK_KEYS)


def checked_rows(rows: list[Question], source: str | Path) -> list[Question]:
    """Make ids unique (the second row of one id gets ``id#2``) and check that there is something to ask.

    Raises:
        UserError: if there are no rows, or none of them can be asked.
    """
    if not rows:
        raise UserError(f"data file {source} holds no rows")
    if all(row.problem for row in rows):
        raise UserError(f"{source}: {none_of(len(rows), 'row')} can be asked; the first one: {rows[0].problem}")
    named = {row.id for row in rows}
    count: Counter[str] = Counter()
    result = []
    for row in rows:
        name = row.id
        count[row.id] += 1
        while count[row.id] > 1 and (name := f"{row.id}#{count[row.id]}") in named:
            count[row.id] += 1
        result.append(row if name == row.id else replace(row, id=name))
    return result


def fingerprint(files: Sequence[Path], folder: Path) -> str:
    """SHA-256 over names and contents of files.

    Args:
        files: files in any order.
        folder: what the names are taken relative to, so that a benchmark keeps its fingerprint when it moves.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: if one cannot be read.
    """
    lines = []
    for path in files:
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
        try:
            with path.open("rb") as file:
                lines.append(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n")
        except OSError as error:
            raise UserError(f"data file {path} cannot be read: {error.strerror}") from error
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def count_notices(counted: Mapping[str, int], expected: Mapping[str, int] | None) -> list[str]:
    """Say where a benchmark's counts differ from the published ones.

    Args:
        counted: what was read, with ``rows``.
        expected: published counts; ``rows`` and any parts of them.

    Returns:
        One line, or none.
    """
    wrong = [name for name, number in (expected or {}).items() if counted.get(name, 0) != number]
    if not expected or not wrong:
        return []
    if "rows" in wrong:
        return [f"read {count_of(counted['rows'], 'row')}; the published test set has {expected['rows']:,}"]
    parts = ", ".join(f"{counted.get(name, 0):,} {name} (published: {expected[name]:,})" for name in wrong)
    return [f"read {count_of(counted['rows'], 'row')} as published, but {parts}"]


def make_benchmark(
    rows: list[Question],
    source: str | Path,
    files: Sequence[Path],
    folder: Path,
    *,
    roots: Sequence[Path],
    expected: Mapping[str, int] | None = None,
    counted: Mapping[str, int] | None = None,
    notices: Sequence[str] = (),
) -> Benchmark:
    """Check rows, fingerprint their files and collect what a reader must know.

    Args:
        rows: all rows that were read.
        source: what messages call the benchmark.
        files: that the rows come from.
        folder: that the files' names are taken relative to.
        roots: folders of the images.
        expected: published counts.
        counted: numbers to compare with them, besides ``rows`` and the two answer types.
        notices: further lines.

    Returns:
        The benchmark.

    Raises:
        UserError: if there are no rows, or none of them can be asked.
    """
    rows = checked_rows(rows, source)
    types = Counter(row.answer_type for row in rows)
    numbers = {"rows": len(rows), "OPEN": types["OPEN"], "CLOSED": types["CLOSED"], **(counted or {})}
    lines = [*count_notices(numbers, expected), *notices]
    problems = [row for row in rows if row.problem]
    if problems:
        lines.append(
            f"{len(problems):,} of {len(rows):,} rows cannot be asked and count as failures; the first one,"
            f" {problems[0].id}: {problems[0].problem}"
        )
    outside = [row for row in rows if row.options and not row.problem and not _is_of_options(row)]
    if outside:
        lines.append(
            f"{len(outside):,} of {len(rows):,} rows have an answer that is not among their options and count as wrong"
            f" wherever an option is chosen; the first one: {outside[0].id}"
        )
    return Benchmark(
        rows, str(source), list(files), fingerprint(files, folder), expected, lines, [Path(root) for root in roots]
    )


def _is_of_options(row: Question) -> bool:
    answer = row.references[0]
    return answer in row.options or all(part in row.options for part in answer.split(BETWEEN_OPTIONS))


def is_whole(chunk: int | None, index: int | None) -> bool:
    """Return whether the numbers of :func:`take_chunk` select everything."""
    return chunk in _EVERYTHING or index in _EVERYTHING


def take_chunk(rows: Sequence[Question], chunk: int | None, index: int | None) -> list[Question]:
    """Cut rows into parts of nearly equal size and take one.

    Args:
        rows: n of them.
        chunk: number of parts; more than n are allowed, some are then empty. None or -1 for everything.
        index: the part, from 0. None or -1 for everything.

    Returns:
        Rows ``index * n // chunk`` to ``(index + 1) * n // chunk``: every row is in exactly one part.

    Raises:
        UserError: if there is no such part.
    """
    if chunk is None or index is None or is_whole(chunk, index):
        return list(rows)
    if chunk < 1:
        raise UserError(f"test_chunk={chunk} must be at least 1, or -1 for everything")
    if not 0 <= index < chunk:
        raise UserError(f"test_chunk_idx={index} must be 0 to {chunk - 1} (test_chunk={chunk}), or -1 for everything")
    return list(rows[index * len(rows) // chunk : (index + 1) * len(rows) // chunk])
