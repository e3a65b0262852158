"""Packaged configurations, named on the command line as `medcap/FOLDER/NAME`."""

from __future__ import annotations

from pathlib import Path


def packaged_configs() -> dict[str, Path]:
    """The packaged configurations: name as ``--config`` takes it -> file."""
    root = Path(__file__).parent
    return {f"medcap/{path.relative_to(root).with_suffix('')}": path for path in sorted(root.rglob("*.yaml"))}
