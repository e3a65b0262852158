"""The file of answers: written row by row, so that a killed run continues where it stopped (``answering.py``)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.data.json_text import parse_json
from medcap.errors import UserError
from medcap.files import make_folder, plain, write_json
from medcap.locks import lock_file

if TYPE_CHECKING:
    from medcap.generation.request import Request

SETTINGS_SUFFIX = ".settings.json"


@dataclass(frozen=True)
class FileKeys:
    """What a program calls the keys of its file of answers, for messages.

    Attributes:
        folder: names its folder.
        overwrite: replaces what is there.
        keep_old: keeps answers that were made under other settings.
    """

    folder: str = "output_dir=..."
    overwrite: str = "overwrite=true"
    keep_old: str = "keep_old_answers=true"


RECIPE_KEYS = FileKeys()


def dataset_fingerprint(path: str | Path) -> str:
    """SHA-256 of a file's bytes.

    Args:
        path: the data file.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"data file {path} cannot be read: {error.strerror}") from error


def checkpoint_fingerprint(vision_checkpoint: str | Path) -> str:
    """Return the SHA-256 of the weights that a ``vision_checkpoint`` names.

    Args:
        vision_checkpoint: a run's folder, a checkpoint of ours, or medcap 2024's ``meta_model_*.pt``.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: if there are none, or they cannot be read.
    """
    from medcap.checkpoints.vision_files import find_vision_checkpoint
    from medcap.models.component_registry import further_components
    from medcap.models.towers.tensor_files import PICKLE_SUFFIXES

    path = Path(vision_checkpoint)
    if path.suffix in PICKLE_SUFFIXES:
        return dataset_fingerprint(path)
    weights = find_vision_checkpoint(path)
    files = [weights, *(weights.with_name(f"{name}.safetensors") for name in further_components())]
    digests = [dataset_fingerprint(file) for file in files if file.is_file()]
    # Of a run without further components it stays what it always was.
    return digests[0] if len(digests) == 1 else _digest(digests)


def settings_fingerprint(settings: Mapping[str, Any]) -> str:
    """SHA-256 over settings, whatever the order of their keys."""
    return _digest(plain(settings))


def request_fingerprint(request: Request, extra: Any = None) -> str:
    """SHA-256 over a request.

    Args:
        request: images count by path and view, or by their pixels where a picture itself is given.
        extra: values that decide the result besides the request, such as candidates; JSON values.

    Returns:
        64 hexadecimal digits.
    """
    turns = [[message.role, [_part(part) for part in message.content]] for message in request.messages]
    without = [sorted(request.without)] if request.without else []
    return _digest([request.id, turns, request.answer_prefix, request.max_new_tokens, plain(extra), *without])


def _part(part: Mapping[str, Any]) -> list[str]:
    content = part["content"]
    if part["type"] == "image" and hasattr(content, "tobytes"):
        content = hashlib.sha256(f"{content.mode}{content.size}".encode() + content.tobytes()).hexdigest()
    return [part["type"], str(content)]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class PredictionFile:
    """Answers in JSON lines, appended and flushed one by one.

    Args:
        path: the file; what is complete in it is read, a last line that a kill cut off is removed.
        settings: everything that decides an answer besides the request: checkpoint fingerprint, sampling, prompt.
        overwrite: drop what is there.
        keep_old: keep rows that were made under other settings instead of refusing them.
        keys: what messages call these choices.

    Raises:
        UserError: if the file has rows that were made under other settings, is written by another process, or has a
            damaged line.

    Example:
        >>> with PredictionFile(folder / "predictions.jsonl", settings) as file:
        ...     if fingerprint not in file.rows:
        ...         file.append({"fingerprint": fingerprint, "generated": "clear lungs"})
    """

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, Any],
        overwrite: bool = False,
        keep_old: bool = False,
        keys: FileKeys = RECIPE_KEYS,
    ) -> None:
        self.path = Path(path)
        self.settings = plain(settings)
        self.settings_fingerprint = settings_fingerprint(settings)
        self.keep_old = keep_old
        self._keys = keys
        self.rows: dict[str, dict[str, Any]] = {}
        make_folder(self.path.parent)
        try:
            self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        except OSError as error:
            raise UserError(f"output_dir: {self.path} cannot be written: {error.strerror}") from error
        try:
            self._lock()
            if overwrite:
                self._file.truncate(0)
            self._read()
            if not self.rows:
                write_json(self.path.with_suffix(SETTINGS_SUFFIX), plain(self.settings))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def has_answer(self, fingerprint: str) -> bool:
        """Return whether a request was answered before, so that it need not be asked again.

        A failure does not count: it may have been fixed since, for instance by putting the image there.

        Args:
            fingerprint: fingerprint of the request.
        """
        known = self.rows.get(fingerprint)
        return known is not None and known.get("error") is None

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one answer; it is on its way to the disk when this returns.

        Args:
            row: JSON values with the key ``fingerprint``; a row of the same fingerprint counts as replaced.
        """
        complete = plain({**row, "settings": self.settings_fingerprint})
        line = json.dumps(complete, ensure_ascii=False, allow_nan=False)
        self._file.write(line.encode("utf-8", errors="replace") + b"\n")
        self._file.flush()
        self.rows[complete["fingerprint"]] = complete

    @property
    def num_old(self) -> int:
        """Rows that were made under other settings."""
        return sum(row["settings"] != self.settings_fingerprint for row in self.rows.values())

    def close(self) -> None:
        """Finish the file."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def _lock(self) -> None:
        if lock_file(self._file) is False:
            raise UserError(f"{self.path} is being written by another run: set another {self._keys.folder}")

    def _read(self) -> None:
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, start=1):
            row = _decode(line)
            if row is None and line.endswith(b"\n") and self._file.read(1):
                raise UserError(
                    f"{self.path}, line {number} is damaged: fix or remove the line, or set {self._keys.overwrite}"
                )
            if row is None:
                break
            if row.get("settings") != self.settings_fingerprint and not self.keep_old:
                raise UserError(
                    f"{self.path} holds answers made under other settings{self._difference()}: set"
                    f" {self._keys.folder} to another folder, {self._keys.overwrite} to replace them, or"
                    f" {self._keys.keep_old} to mix them"
                )
            self.rows[row["fingerprint"]] = row
            end += len(line)
        self._file.truncate(end)
        self._file.seek(end)

    def _difference(self) -> str:
        try:
            old = parse_json(self.path.with_suffix(SETTINGS_SUFFIX).read_text(encoding="utf-8"))
            names = sorted(old.keys() | self.settings.keys())
            changed = [name for name in names if old.get(name) != self.settings.get(name)]
        except (OSError, ValueError, AttributeError):
            return ""
        shown = [f"{name}: {_short(old.get(name))} there, {_short(self.settings.get(name))} now" for name in changed]
        return f" ({'; '.join(shown)})" if shown else ""


def _decode(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("fingerprint"), str) else None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
