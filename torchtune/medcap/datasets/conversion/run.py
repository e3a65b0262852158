"""Runs a converter: finds its sources, writes its files, says how to train on them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

from medcap.datasets.conversion.base import Converter, Folders
from medcap.datasets.conversion.example import Tally
from medcap.datasets.conversion.instructions import Instructions
from medcap.datasets.conversion.writing import SUFFIXES, RowWriter, Written
from medcap.errors import UserError
from medcap.files import keep_inputs
from medcap.plurals import counted


def convert(
    converter: Converter,
    data: str,
    out: str | Path,
    *,
    instruction: str = "none",
    seed: int = 0,
    limit: int | None = None,
    keep_missing: bool = False,
) -> list[Written]:
    """Make training files. The same sources and arguments give the same bytes.

    Args:
        converter: converter of the data set, with its options.
        data: folder of the downloads.
        out: folder to write to, or the file itself, which ends in .jsonl or .json.
        instruction: what comes before captions; see :class:`Instructions`.
        seed: seed of the random instructions.
        limit: rows of each file at most.
        keep_missing: keep rows whose image is not there.

    Returns:
        The summary of the written files.

    Raises:
        UserError: if a source is missing (then nothing is written) or damaged, the output would replace it, or
            nothing of it can be used.
    """
    out = Path(out)
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} must be at least 1")
    single = out.suffix in SUFFIXES and not out.is_dir()
    folder = out.parent if single else out
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {out}: name a folder, or a file that ends in {' or '.join(SUFFIXES)}")
    outputs = converter.outputs(Folders(data, folder, keep_missing, out if single else None))
    if single and len(outputs) > 1:
        names = ", ".join(output.name for output in outputs)
        raise UserError(f"--out {out}: {converter.name} writes {names}: name their folder")
    paths = [out if single else folder / output.name for output in outputs]
    own = [Path(value) for value in vars(converter).values() if isinstance(value, str | Path) and value]
    for path in paths:
        keep_inputs("--out", path, *own)
    written = []
    for output, path in zip(outputs, paths, strict=True):
        writer = RowWriter(Instructions(instruction, seed), limit, keep_missing)
        tally = Tally()
        written.append(writer.write(path, output.examples(tally), tally))
    return written


def image_roots(written: Written, data: str) -> list[Path]:
    """Return what ``dataset.image_roots`` must be for a file's images to be found.

    Args:
        written: the file.
        data: folder of the downloads.

    Returns:
        Folders; none where training finds the images by itself, as they are in the file's folder or the working
        directory.
    """
    defaults = [written.path.parent.resolve(), Path.cwd().resolve()]
    used = {Path(folder).resolve() for folder in written.folders}
    if all(_inside(folder, defaults) for folder in used):
        return []
    roots: list[Path] = []
    for root in [*defaults, Path(data).resolve(), *sorted(used)]:
        if any(folder.is_relative_to(root) and not _inside(folder, roots) for folder in used):
            roots.append(root)
    return roots


def summary(written: Written, data: str) -> str:
    """Return lines of text about a file that the user must know."""
    tally = written.tally
    lines = [f"wrote {counted(written.rows, 'row')} to {written.path} (records read: {tally.read:,})"]
    for reason, number in tally.skipped.most_common():
        lines.append(f"  left out {number:,}: {reason} (first: {tally.first[reason]})")
    keys = [f"dataset.source={shlex.quote(str(written.path))}"]
    roots = image_roots(written, data)
    if written.missing:
        lines.append(
            f"  kept {written.missing:,} rows whose image is not there: name the folder or the tar files of the images"
            " in dataset.image_roots"
        )
    if roots:
        keys.append(shlex.quote(f"dataset.image_roots=[{', '.join(json.dumps(str(root)) for root in roots)}]"))
    return "\n".join([*lines, f"  use it as {' '.join(keys)}"])


def _inside(folder: Path, roots: Iterable[Path]) -> bool:
    return any(folder.is_relative_to(root) for root in roots)
