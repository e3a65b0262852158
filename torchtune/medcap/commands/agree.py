"""``medcap agree FIRST SECOND``: how far two judges, or two models, say the same."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcap.errors import UserError

HELP = "how far two judges' verdicts or scores, or two models' closed answers, agree"
_KINDS = ("verdicts.jsonl", "ratings.jsonl", "predictions.jsonl")
_MOST_LABELS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap agree``.
    """
    kinds = "verdicts.jsonl or ratings.jsonl of a judge, or predictions.jsonl"
    parser.add_argument("first", type=Path, metavar="FIRST", help=kinds)
    parser.add_argument(
        "second", type=Path, metavar="SECOND", help="the same of another judge or model, of the same rows"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(options: argparse.Namespace) -> None:
    """Pair the rows and print the agreement.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if a file cannot be read, the two are of different kinds, or have no rows in common.
    """
    from medcap.files import plain
    from medcap.scoring.agreement import agreement, score_agreement

    first, second = _read(options.first), _read(options.second)
    what = _what(first, options.first)
    if what != _what(second, options.second):
        raise UserError(f"{options.first} and {options.second} are of different kinds: give two files of one kind")
    common = [key for key in first if key in second]
    if what == "ratings":
        pairs = [(first[key], second[key]) for key in common]
        names = ("reference_score", "prediction_score")
        pairs = [pair for pair in pairs if all(row.get(name) is not None for row in pair for name in names)]
        _check(pairs, options)
        scores = {
            name: score_agreement(*([row[name] for row in side] for side in zip(*pairs, strict=True))) for name in names
        }
        preferred = [[_preferred(row) for row in side] for side in zip(*pairs, strict=True)]
        result: dict[str, Any] = {"scores": scores, "preferred": agreement(*preferred).as_dict()}
    else:
        closed = what == "answers"
        pairs = [(first[key], second[key]) for key in common if not closed or _is_closed(first[key])]
        _check(pairs, options)
        labels = [[_label(row, what) for row in side] for side in zip(*pairs, strict=True)]
        result = {what: agreement(*labels).as_dict()}
    result |= {"rows": len(pairs), "only_first": len(first) - len(common), "only_second": len(second) - len(common)}
    print(json.dumps(plain(result), indent=2, ensure_ascii=False) if options.json else _lines(result))


def _read(path: Path) -> dict[tuple[str, str], Mapping[str, Any]]:
    from medcap.datasets.rows.json_rows import read_rows

    if path.is_dir():
        found = [path / name for name in _KINDS if (path / name).is_file()]
        if len(found) != 1:
            raise UserError(f"{path} holds {len(found) or 'none'} of {', '.join(_KINDS)}: name the file itself")
        path = found[0]
    if not path.is_file():
        raise UserError(f"{path} does not exist: give {' or '.join(_KINDS)}")
    rows: dict[tuple[str, str], Mapping[str, Any]] = {}
    for index, row in read_rows(path):
        if not isinstance(row, Mapping) or "question_id" not in row:
            raise UserError(f"{path}, row {index}: there is no 'question_id'")
        rows[str(row["question_id"]), str(row.get("order", ""))] = row
    return rows


def _what(rows: Mapping[Any, Mapping[str, Any]], path: Path) -> str:
    row = next(iter(rows.values()), {})
    for key, what in (("verdict", "verdicts"), ("prediction_score", "ratings"), ("prediction", "answers")):
        if key in row:
            return what
    raise UserError(f"{path} holds neither verdicts nor ratings nor answers of medcap")


def _check(pairs: list[Any], options: argparse.Namespace) -> None:
    if not pairs:
        raise UserError(
            f"{options.first} and {options.second} have no rows in common that both judge (of answers: CLOSED, or with"
            " options)"
        )


def _is_closed(row: Mapping[str, Any]) -> bool:
    return row.get("answer_type") == "CLOSED" or bool(row.get("options"))


def _label(row: Mapping[str, Any], what: str) -> str:
    if what == "verdicts":
        return str(row["verdict"] or "NONE")
    return str(row["prediction"] or "").strip().rstrip(".").lower()


def _preferred(row: Mapping[str, Any]) -> str:
    difference = row["prediction_score"] - row["reference_score"]
    return "answer" if difference > 0 else "reference" if difference < 0 else "equal"


def _lines(result: Mapping[str, Any]) -> str:
    from medcap.report.intervals import between

    only = [f"{result[key]:,} only in the {key.removeprefix('only_')}" for key in ("only_first", "only_second")]
    lines = [f"{result['rows']:,} common rows; {', '.join(only)}"]
    for name, part in result.get("scores", {}).items():
        move = part["difference"]
        kappa, rank = (_number(part[key]) for key in ("weighted_kappa", "spearman"))
        lines.append(
            f"{name}: second minus first {move['value']:+.3f}"
            f" [{between(move['low'], move['high'], '{:+.3f}'.format, ', ')}],"
            f" Spearman {rank}, quadratic kappa {kappa}"
        )
    for name in ("verdicts", "answers", "preferred"):
        if name in result:
            lines += _table(name, result[name])
    return "\n".join(lines)


def _table(name: str, part: Mapping[str, Any]) -> list[str]:
    from medcap.report.intervals import between
    from medcap.report.text_table import aligned

    same, kappa = part["same"], part["kappa"]
    words = (
        "undefined: one label"
        if kappa is None
        else f"{kappa['value']:.3f} [{between(kappa['low'], kappa['high'], '{:.3f}'.format, ', ')}]"
    )
    head = (
        f"{name}: same {100 * same['value']:.1f} %"
        f" [{between(same['low'], same['high'], lambda end: f'{100 * end:.1f}', ', ')}], kappa {words}"
    )
    labels = [label or "(none)" for label in part["labels"]]
    if len(labels) > _MOST_LABELS:
        return [head, f"  {len(labels)} different labels; --json has their counts"]
    lines = [["first \\ second", *labels]]
    lines += [[label, *map(str, row)] for label, row in zip(labels, part["counts"], strict=True)]
    return [head, *aligned(lines, indent="  ")]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
