"""What a file is that has the name of a model's file and is something else."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcap.errors import UserError

_HEAD_BYTES = 512
_AGAIN = "copy or download it again"
_ARCHIVES = {
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 file",
    b"%PDF": "a PDF",
}
_SHOWN = 80
_SHORTEST_TEXT = 8  # a few letters are the rest of a damaged file as well
# A server's error that was saved as config.json holds these keys and no others.
_ERROR_KEYS = {"error", "errors", "message", "detail", "status", "statuscode", "code", "type", "timestamp", "path"}


def check_file(path: Path, text: bool = False) -> None:
    """See that a file is not something that a download leaves in a model file's place.

    Args:
        path: a file; one that is missing passes.
        text: whether it is a text by its nature, such as a tokenizer's list or JSON.

    Raises:
        UserError: naming what it is (a Git LFS pointer, a web page, a server's error, nothing at all, an archive) and
            what to do.
    """
    kind = foreign_kind(path, text)
    if kind is not None:
        raise UserError(f"{path} {kind}")


def foreign_kind(path: Path, text: bool = False) -> str | None:
    """Say what a file is, and what to do; the arguments are those of :func:`check_file`.

    Returns:
        Such as "is a saved web page, not the file itself: copy or download it again"; None for a file that may be what
        its name says, or that cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    if not head:
        return f"is empty: {_AGAIN}"
    if head.startswith(b"version https://git-lfs"):
        return f"is a git-lfs pointer, not the file itself: run git lfs pull in its folder, or {_AGAIN}"
    archive = next((kind for magic, kind in _ARCHIVES.items() if head.startswith(magic)), None)
    if archive is not None:
        return f"is {archive}, not the file itself: unpack it, or {_AGAIN}"
    words = _words(head)
    if re.match(r"<!doctype html|<html|<head|<body", words, re.IGNORECASE):
        return f"is a saved web page, not the file itself: {_AGAIN}"
    if words.startswith("<"):
        return f"is XML ({_shown(words)}), as servers send for an error, not the file itself: {_AGAIN}"
    is_json = words[:1] in ("{", "[")
    if len(words) >= _SHORTEST_TEXT and (not text or (is_json and path.suffix != ".json")):
        what = "JSON" if is_json else "text"
        return f"is {what} ({_shown(words)}), not the file itself: {_AGAIN}"
    return None


def check_pickle(path: Path) -> None:
    """See that a ``.pt``, ``.pth`` or ``.bin`` file may be what ``torch.save`` writes.

    Raises:
        UserError: see :func:`check_file`; also for a safetensors file and an archive of other files.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(16)
        members = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else None
    except (OSError, zipfile.BadZipFile):
        return
    if members is not None and not any(Path(name).name == "data.pkl" for name in members):
        held = f"it holds {members[0]}" if members else "it holds nothing"
        raise UserError(
            f"{path} is a zip archive of other files ({held}), not a torch.save file: unpack it, or {_AGAIN}"
        )
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        raise UserError(f"{path} is a safetensors file: rename it to {path.stem}.safetensors")
    if members is None and not head.startswith((b"PK", b"\x80")):
        raise UserError(f"{path} is not a torch.save file: {_AGAIN}")


def check_safetensors(path: Path) -> None:
    """See that a ``.safetensors`` file may be one.

    Raises:
        UserError: see :func:`check_file`; also for a zip archive, such as what ``torch.save`` writes.
    """
    check_file(path)
    if path.is_file() and zipfile.is_zipfile(path):
        raise UserError(f"{path} is a zip archive or a torch.save file, not safetensors: {_AGAIN}")


def check_error_body(path: Path, value: Mapping[str, Any]) -> None:
    """See that a JSON object is not a server's error.

    Args:
        path: where it is from.
        value: what it holds.

    Raises:
        UserError: with the server's words.
    """
    keys = {re.sub(r"[^a-z]", "", key.lower()) for key in value}
    if keys & {"error", "errors", "message", "detail"} and keys <= _ERROR_KEYS:
        raise UserError(f"{path} is a server's error ({_shown(json.dumps(value))}), not the file itself: {_AGAIN}")


def _words(head: bytes) -> str:
    """Return the beginning of a text; "" for binary data."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return ""
        text = head[: error.start].decode("utf-8-sig")
    return text.lstrip() if all(character.isprintable() or character.isspace() for character in text) else ""


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
