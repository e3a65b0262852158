"""Folders of drawn images: whether one already holds what was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcap.data.json_text import parse_json
from medcap.errors import UserError


def is_complete(out: Path, marker: str, request: Mapping[str, Any]) -> bool:
    """Return whether a folder holds the whole request.

    Args:
        out: the folder.
        marker: name of the file in it that has the request it was written for.
        request: what is asked for.

    Raises:
        UserError: when it holds something else, which would be replaced.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"out: {out} is a file; name a folder")
    if not any(out.iterdir()):
        return False
    try:
        found = parse_json((out / marker).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"out: {out} holds other files; name a new or an empty folder") from None
    if found != request:
        raise UserError(f"out: {out} holds the phantoms of another request, {json.dumps(found)}; name another folder")
    return True
