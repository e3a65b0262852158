"""``medcap compare A B [C ...]``: is one model's answers better than another's, or is it chance?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medcap.errors import UserError
from medcap.plurals import counted

if TYPE_CHECKING:
    from medcap.scoring.comparison import Comparison
    from medcap.scoring.many_comparisons import ManyComparisons

PREDICTIONS, RATINGS = "predictions.jsonl", "ratings.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap compare``.
    """
    kinds = "predictions file, a task's result folder, or an output_dir with one task"
    parser.add_argument("a", type=Path, metavar="A", help=kinds)
    parser.add_argument("b", type=Path, metavar="B", help="the same, answers to the same questions")
    parser.add_argument(
        "more",
        type=Path,
        metavar="C",
        nargs="*",
        help="further ones; then all pairs are compared, with Holm's correction",
    )
    parser.add_argument("--protocol", help="rule that scores every side (exact)")
    parser.add_argument(
        "--ratings", action="store_true", help="compare what a judge gave (ratings.jsonl) instead of scoring answers"
    )
    parser.add_argument("--to-first", action="store_true", help="compare each further one with A only, not all pairs")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(options: argparse.Namespace) -> None:
    """Compare files of answers and print the result.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if a file cannot be found or read, they do not fit each other, or the protocol cannot score them.
    """
    from medcap.files import plain
    from medcap.scoring.answers import read_answers, task_of_answers
    from medcap.scoring.comparison import compare, pair_answers
    from medcap.scoring.protocols.registry import make_protocol

    given = (options.a, options.b, *options.more)
    notices: list[str] = []
    if options.ratings:
        from medcap.scoring.rated_answers import RelativeScore, judge_of, read_ratings

        if options.protocol is not None:
            raise UserError("--ratings and --protocol exclude each other: a judge's scores are compared as they are")
        paths = [find_predictions(path, RATINGS) for path in given]
        protocol, sides = RelativeScore(), [read_ratings(path) for path in paths]
        judges = {judge: path for path in reversed(paths) if (judge := judge_of(path))}
        if len(judges) > 1:
            named = "; ".join(f"{judge} in {path}" for judge, path in judges.items())
            notices.append(f"the ratings are not of one judge: {named}")
    else:
        paths = [find_predictions(path) for path in given]
        protocol = make_protocol(options.protocol or "exact", dataset=task_of_answers(paths[0]))
        sides = [read_answers(path) for path in paths]
    if len(paths) > 2:
        from medcap.scoring.many_comparisons import compare_many

        many = compare_many(sides, [str(path) for path in given], protocol, options.to_first)
        many.notices[:0] = notices
        if options.json:
            print(json.dumps(plain(many.as_dict()), indent=2, ensure_ascii=False, allow_nan=False))
        else:
            print(many_table(many))
        return
    pairs = pair_answers(sides[0], sides[1], (str(paths[0]), str(paths[1])))
    result = compare(pairs, protocol)
    result = replace(result, notices=(*notices, *result.notices))
    if options.json:
        values = result.as_dict()
        for side, path in zip(("a", "b"), paths, strict=True):
            values[side] = {"file": str(path), **values[side]}
        print(json.dumps(plain(values), indent=2, ensure_ascii=False, allow_nan=False))
        return
    for notice in result.notices:
        print(f"note: {notice}")
    print(comparison_table(result, str(paths[0]), str(paths[1])))


def find_predictions(path: Path, name: str = PREDICTIONS) -> Path:
    """Find the answers that a path stands for.

    Args:
        path: a file of that kind, a folder with one, or a folder with exactly one such folder.
        name: name of the file.

    Returns:
        The file.

    Raises:
        UserError: if there is nothing, or more than one file that it could be.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path} does not exist: give a predictions file or the folder of a task")
    if (path / name).is_file():
        return path / name
    found = sorted(path.glob(f"*/{name}"))
    if len(found) == 1:
        return found[0]
    if found:
        folders = ", ".join(str(file.parent) for file in found)
        raise UserError(f"{path} holds the answers of {len(found)} tasks: name one of {folders}")
    there = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    listed = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
    rate = ": a judge writes it (docs/comparing.md)" if name == RATINGS else ""
    raise UserError(f"{path} holds no {name}, neither itself nor in a folder{rate}; there is: {listed or 'nothing'}")


def comparison_table(comparison: Comparison, first: str, second: str) -> str:
    """Return a comparison as text for a terminal.

    Args:
        comparison: what to show.
        first: what A is.
        second: what B is.

    Returns:
        Lines without a last line break.
    """
    from medcap.report.intervals import NO_INTERVAL, between

    show, signed = _numbers(comparison.headline, comparison.share)
    difference = comparison.difference
    lines = [
        (f"{comparison.headline}, A", show(comparison.first.score), first),
        (f"{comparison.headline}, B", show(comparison.second.score), second),
        (
            "B minus A",
            signed(difference.value),
            NO_INTERVAL
            if difference.ends is None
            else f"{100 * difference.level:.0f} % interval {between(*difference.ends, signed)}"
            f" ({_interval(comparison)})",
        ),
        (
            "rows",
            f"{comparison.n:,}",
            f"without an answer: {comparison.first.failures:,} in A, {comparison.second.failures:,} in B",
        ),
    ]
    if comparison.decided:
        every = comparison.decided == comparison.n
        within = "" if every else f"of the {comparison.decided:,} rows that are right or wrong"
        lines += [
            ("A right, B wrong", f"{comparison.first_only:,}", within),
            ("A wrong, B right", f"{comparison.second_only:,}", within),
        ]
    lines.append(("p", f"{comparison.p:.4g}", _test(comparison)))
    widths = [max(len(line[position]) for line in lines) for position in (0, 1)]
    body = [f"{label:<{widths[0]}}  {value:>{widths[1]}}  {detail}".rstrip() for label, value, detail in lines]
    return "\n".join([f"protocol {comparison.protocol}", *body, comparison.verdict])


def many_table(many: ManyComparisons) -> str:
    """Return several runs and their comparisons as text for a terminal.

    Args:
        many: what to show.

    Returns:
        Notices, a table of the runs by a letter, a table of the pairs, and a sentence for each pair.
    """
    from medcap.report.intervals import between
    from medcap.report.text_table import aligned
    from medcap.scoring.comparison import in_points, verdict

    show, signed = _numbers(many.headline, many.share)
    letters = [_letter(index) for index in range(len(many.runs))]
    runs = [["", many.headline, "95 % interval", "missing", ""]]
    for letter, run in zip(letters, many.runs, strict=True):
        ends = f"{show(run.interval[0])} to {show(run.interval[1])}" if run.interval else "-"
        runs.append([letter, show(run.score), ends, f"{run.failures:,}", run.name])
    pairs = [["", "difference", "95 % interval", "p", "p (Holm)", ""]]
    for pair in many.pairs:
        difference = pair.comparison.difference
        ends = between(difference.low, difference.high, signed)
        first, second = letters[pair.first], letters[pair.second]
        p, corrected = f"{pair.comparison.p:.3g}", f"{pair.p_holm:.3g}"
        sentence = verdict(difference, pair.p_holm, in_points(many.headline, many.share), (first, second))
        pairs.append([f"{second} minus {first}", signed(difference.value), ends, p, corrected, sentence])
    counts = f"protocol {many.protocol}, {counted(many.n, 'common row')}, {counted(len(many.pairs), 'comparison')}"
    notices = [f"note: {notice}" for notice in many.notices]
    return "\n".join([*notices, counts, *aligned(runs, left=(0, 4)), *aligned(pairs, left=(0, 5))])


def _numbers(headline: str, share: bool) -> tuple[Callable[[float], str], Callable[[float], str]]:
    """Return how a score and a difference are written; relative scores as ``medcap summarize`` writes them."""
    from medcap.scoring.relative_scores import RELATIVE

    if headline in RELATIVE:
        return (lambda value: f"{100 * value:.1f}"), (lambda value: f"{100 * value:+.1f}")
    return (_percent, _points) if share else ("{:.4f}".format, "{:+.4f}".format)


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"R{index + 1}"


def _interval(comparison: Comparison) -> str:
    draws = comparison.difference.draws
    return f"paired bootstrap, {draws:,} draws" if draws else "Wilson: every row differs alike"


def _test(comparison: Comparison) -> str:
    from medcap.scoring.comparison import MCNEMAR
    from medcap.scoring.paired_tests import DRAWS

    if comparison.test == MCNEMAR:
        return "McNemar, exact, two-sided"
    return f"random signs, {DRAWS:,} draws, two-sided (the protocol does not call every row right or wrong)"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"
