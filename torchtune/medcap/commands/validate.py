"""``medcap validate FILE``: every row of a data file against every rule that training has."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medcap.commands import training_data
from medcap.errors import UserError
from medcap.plurals import counted

if TYPE_CHECKING:
    from medcap.datasets.inspection.rows import RowChecker
    from medcap.datasets.inspection.survey import Survey
    from medcap.datasets.inspection.validation import Validation

_MOST_SHOWN = 5  # pairs of what is there twice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap validate``.
    """
    training_data.add_arguments(parser)
    parser.add_argument(
        "--against", metavar="FILE", help="another file, such as the test set: which images and rows are in both"
    )
    parser.add_argument(
        "--fix", type=Path, metavar="OUT", help="write the rows that can be used, unchanged, to a .json or .jsonl file"
    )


def run(options: argparse.Namespace) -> None:
    """Check the file and say what is wrong.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: for an impossible option, or a file that cannot be read or written.
        SystemExit: with status 1 if a row cannot be used.
    """
    from medcap.datasets.inspection.validation import write_good_rows
    from medcap.files import keep_inputs

    files = training_data.open_training_files(options)
    if options.fix is not None and len(files) > 1:
        raise UserError("--fix is for one file, and the configuration has several sources: name one before --config")
    _check_fix(options, files[0].checker)
    others = () if options.against is None else (options.against,)
    if options.json is not None:
        keep_inputs("--json", options.json, *(file.checker.rows.path for file in files), *others, use="checked")
    found: dict[str, Validation] = {}
    for file in files:
        if len(files) > 1:
            print(f"{file.name}:")
        found[file.name] = _validate(options, file.checker)
    if options.json is not None:
        each = {name: findings.as_dict() for name, findings in found.items()}
        training_data.write_findings(options.json, each if len(files) > 1 else each[files[0].name])
    if options.fix is not None:
        (findings,) = found.values()
        count = write_good_rows(findings.survey, options.fix)
        print(f"wrote {counted(count, 'row')} to {options.fix}{_roots_hint(options, files[0].checker)}")
    if any(findings.survey.problems for findings in found.values()):
        raise SystemExit(1)


def _validate(options: argparse.Namespace, checker: RowChecker) -> Validation:
    """Check one file and print what is found."""
    from medcap.datasets.inspection.survey import survey
    from medcap.datasets.inspection.validation import validate

    other = None if options.against is None else _open_other(options, checker)
    processes = training_data.num_processes(options)
    found = survey(checker, processes)
    against = None if other is None else survey(other, processes, label="comparing")
    findings = validate(found, against)
    # A name in a row may hold what no terminal can show.
    print(_text(findings).encode("utf-8", "backslashreplace").decode("utf-8"))
    return findings


def _check_fix(options: argparse.Namespace, checker: RowChecker) -> None:
    from medcap.datasets.inspection.validation import FIX_SUFFIXES
    from medcap.datasets.rows.tar_rows import is_shards
    from medcap.files import keep_inputs

    path: Path | None = options.fix
    if path is None:
        return
    if is_shards(checker.rows.path):
        raise UserError("--fix is for JSON and JSONL files: bad samples of tar shards are left out by training itself")
    if path.suffix not in FIX_SUFFIXES:
        raise UserError(f"--fix {path} must end in {' or '.join(FIX_SUFFIXES)}")
    others = () if options.against is None else (options.against,)
    keep_inputs("--fix", path, checker.rows.path, *others, use="checked")
    if options.json is not None and options.json.resolve() == path.resolve():
        raise UserError(f"--fix and --json are both {path}: name two files")


def _open_other(options: argparse.Namespace, checker: RowChecker) -> RowChecker:
    """Return the file to compare with; of it, only what is said and shown matters."""
    from medcap.datasets.rows.source import open_source

    try:
        rows, reader = open_source(options.against, options.image_root or None, checker.reader.max_pixels)
    except UserError as error:
        raise UserError(f"--against: {error}") from None
    return replace(checker, rows=rows, reader=reader, style="auto", tokenizer=None, any_layout=True)


def _roots_hint(options: argparse.Namespace, checker: RowChecker) -> str:
    """Rows name images relative to their file's folder: elsewhere it must be named."""
    folder = checker.rows.path.parent
    if options.fix.parent.resolve() == folder.resolve() or options.image_root:
        return ""
    return f"\n  to train with it, name where its images are: dataset.image_roots=[{os.path.abspath(folder)},.]"


def _text(findings: Validation) -> str:
    from medcap.datasets.inspection.boxes import box_lines
    from medcap.datasets.inspection.masks import mask_lines, region_lines

    checker = findings.survey.checker
    lines = [f"bad row {row['row']}: {' '.join(row['reason'].split())}" for row in findings.bad_rows()]
    marks = box_lines(findings.survey.boxes.as_dict()) + mask_lines(findings.survey.masks.as_dict())
    marks += region_lines(findings.survey.regions.as_dict())
    lines += _repeated(findings) + marks + _overlap(findings) + _lengths(findings)
    if checker.tokenizer is None:
        lines.append("the rules about tokens were not checked: give --tokenizer, or --config")
    total, bad = findings.survey.num_rows, len(findings.survey.problems)
    kinds = ", ".join(f"{rule} {count:,}" for rule, count in findings.rule_counts().items())
    good = f"{checker.rows.path}: {'the row' if total == 1 else f'all {total:,} rows'} can be used"
    lines.append(f"{checker.rows.path}: {bad:,} of {counted(total, 'row')} cannot be used ({kinds})" if bad else good)
    return "\n".join(lines)


def _repeated(findings: Validation) -> list[str]:
    survey = findings.survey
    lines = [f"images: {counted(len(survey.first_rows), 'file')}, named {counted(len(survey.files), 'time')}"]
    if findings.num_repeated_images:
        shown = [_image_names(survey, rows[:2]) for rows in findings.same_images[:_MOST_SHOWN]]
        lines.append(f"  {findings.num_repeated_images:,} of them repeat another one's content: {'; '.join(shown)}")
    if findings.num_repeated_rows:
        shown = [" = ".join(map(str, group[:3])) for group in findings.same_rows[:_MOST_SHOWN]]
        lines.append(f"rows that repeat another one: {findings.num_repeated_rows:,} (rows {'; '.join(shown)})")
    return lines


def _image_names(survey: Survey, rows: list[int]) -> str:
    # Slices of one volume are several images of one name.
    names = (", ".join(dict.fromkeys(Path(image.path).name for image in survey.checker.images(row))) for row in rows)
    return " = ".join(f"row {row}'s {name}" for row, name in zip(rows, names, strict=True))


def _overlap(findings: Validation) -> list[str]:
    overlap = findings.overlap
    if overlap is None:
        return []
    other = overlap.other.checker.rows.path
    lines = [
        f"also in {other} ({overlap.other.num_rows:,} rows): {overlap.num_images:,} of"
        f" {len(findings.survey.first_rows):,} images, {overlap.num_rows:,} rows"
    ]
    for name, pairs in (("image of row", overlap.images), ("row", overlap.rows)):
        lines += [f"  {name} {here} is there in row {there}" for here, there in pairs[:_MOST_SHOWN]]
    if overlap.unusable:
        lines.append(f"  {overlap.unusable:,} rows of it could not be compared, or only their images")
    return lines


def _lengths(findings: Validation) -> list[str]:
    from medcap.datasets.inspection.lengths import either, histogram_lines, summary

    lengths, checker = findings.lengths(), findings.survey.checker
    if lengths is None or checker.tokenizer is None:
        return []
    image = either(checker.tokenizer.num_image_tokens, checker.tokenizer.most_image_tokens)
    return [
        f"tokens a row, {image} for an image: {summary(lengths)}",
        *histogram_lines(lengths),
        f"rows cut at {checker.max_seq_len:,} tokens: {lengths['rows_cut']:,}",
    ]
