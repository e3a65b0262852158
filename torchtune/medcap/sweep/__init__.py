"""Many training runs from one file: a grid or a search over any overrides, side by side, on Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["run"]


def run(
    sweep: str | Path | Mapping[str, Any],
    workers: int | None = None,
    resume: bool = False,
    retry_failed: bool = False,
) -> list[dict[str, Any]]:
    """Run a sweep, or what is left of it: the same as ``medcap sweep``.

    The same call on several machines shares the work, if they share ``output_dir`` or ``storage``.

    Args:
        sweep: a YAML file, the name of a packaged one (``medcap/tiny/sweep``), or its content.
        workers: trials side by side on this machine; by default the file's ``workers``, else one for each GPU.
        resume: require that the sweep has been started before, instead of starting one.
        retry_failed: give trials that failed another attempt.

    Returns:
        The rows of ``results.csv`` as dictionaries: column -> value, with None for an empty cell.

    Raises:
        UserError: before any trial starts, if something in the file is wrong; at the end, if every trial failed.
        KeyboardInterrupt: after SIGINT or SIGTERM, when the trials have saved and ended.

    Example:
        >>> rows = medcap.sweep.run("sweep.yaml", workers=2)
        >>> best = min((row for row in rows if row["state"] == "complete"), key=lambda row: row["value"])
    """
    from medcap.sweep.manager import run_sweep

    return run_sweep(sweep, workers, resume, retry_failed)
