"""Packaged configurations, named on the command line as `medcap/FOLDER/NAME`."""

from __future__ import annotations

from pathlib import Path


def packaged_configs() -> dict[str, Path]:
    """Return the packaged configurations: name as ``--config`` takes it -> file."""
    return {name: path for name, path in _packaged().items() if not (_is(path, "sweep") or _is(path, "pipeline"))}


def packaged_sweeps() -> dict[str, Path]:
    """Return the packaged sweeps: name as ``medcap sweep`` takes it -> file. No recipe can be started with one."""
    return {name: path for name, path in _packaged().items() if _is(path, "sweep")}


def packaged_pipelines() -> dict[str, Path]:
    """Return the packaged pipelines: name as ``medcap run`` takes it -> file. No recipe can be started with one."""
    return {name: path for name, path in _packaged().items() if _is(path, "pipeline")}


def _packaged() -> dict[str, Path]:
    root = Path(__file__).parent
    return {f"medcap/{path.relative_to(root).with_suffix('')}": path for path in sorted(root.rglob("*.yaml"))}


def _is(path: Path, kind: str) -> bool:
    return path.stem == kind or path.stem.endswith(f"_{kind}")
