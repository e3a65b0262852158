"""The file of answers: written row by row, so that a killed run continues where it stopped (``answering.py``)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from medcap.data.json_text import parse_json
from medcap.errors import UserError
from medcap.files import atomic_file, make_folder, plain, write_json
from medcap.locks import lock_file

if TYPE_CHECKING:
    from medcap.generation.request import Request

SETTINGS_SUFFIX = ".settings.json"
_PART = ".part_"


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


def part_path(path: Path, rank: int) -> Path:
    """Return the file that a process other than the first appends its answers to, beside the file of all.

    Args:
        path: file of all answers.
        rank: rank of the process.
    """
    return path.with_name(f"{path.stem}{_PART}{rank}{path.suffix}")


class PredictionFile:
    """Answers in JSON lines, appended and flushed one by one, and in the end in the order of the questions.

    Args:
        path: the file; what is complete in it is read, a last line that a kill cut off is removed. So is what other
            processes of a run that was killed have answered, which moves into this file.
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
        self._num_lines = 0
        self._open(overwrite)

    def _open(self, overwrite: bool) -> None:
        make_folder(self.path.parent)
        try:
            self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        except OSError as error:
            raise UserError(f"output_dir: {self.path} cannot be written: {error.strerror}") from error
        try:
            self._lock()
            if overwrite:
                self._file.truncate(0)
            end = self._read(self._file, self.path)
            self._file.truncate(end)
            self._file.seek(end)
            self._take_parts(drop=overwrite)
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
        self._write(complete)
        self.rows[complete["fingerprint"]] = complete

    def shares(
        self, pending: Sequence[int], requests: Sequence[Request | str], extra: Sequence[Any]
    ) -> Generator[list[int]]:
        """Give out what this process is to ask.

        Args:
            pending: indices of the requests without an answer.
            requests: all requests.
            extra: what is asked about beside each.

        Yields:
            Indices of ``pending``; here all of them at once.
        """
        if pending:
            yield list(pending)

    def any_answered(self) -> bool:
        """Return whether another process has answered anything of what :meth:`shares` gave out."""
        return False

    def settle(self, fingerprints: Iterable[str]) -> None:
        """Bring the file into the order of the questions, whatever the order in which they were answered.

        Args:
            fingerprints: of the requests in the order of the questions; rows of others follow in their old order.
        """
        order = [fingerprint for fingerprint in dict.fromkeys(fingerprints) if fingerprint in self.rows]
        rows = {fingerprint: self.rows[fingerprint] for fingerprint in order} | self.rows
        if list(rows) == list(self.rows) and self._num_lines == len(rows):
            return
        with atomic_file(self.path) as temporary:
            file = temporary.open("w+b")
            # Before it has its name, so that no other run can come between.
            lock_file(file)
            file.writelines(map(_line, rows.values()))
            file.flush()
        self._file.close()
        self._file, self.rows, self._num_lines = file, rows, len(rows)

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

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(_line(row))
        self._file.flush()
        self._num_lines += 1

    def _lock(self) -> None:
        if lock_file(self._file) is False:
            raise UserError(f"{self.path} is being written by another run: set another {self._keys.folder}")

    def _take_parts(self, drop: bool) -> None:
        """Move the answers of a killed run's other processes into this file; ``drop`` removes them."""
        for path in sorted(self.path.parent.glob(f"{self.path.stem}{_PART}*{self.path.suffix}")):
            with path.open("rb") as part:
                if lock_file(part) is False:
                    raise UserError(f"{path} is being written by another run: set another {self._keys.folder}")
                if not drop:
                    self._take(part, path)
            path.unlink()

    def _take(self, part: IO[bytes], path: Path) -> None:
        known = dict(self.rows)
        self._read(part, path)
        for fingerprint, row in self.rows.items():
            before = known.get(fingerprint)
            if before is not None and before.get("error") is None:
                self.rows[fingerprint] = before
            elif row is not before:
                self._write(row)

    def _read(self, file: IO[bytes], path: Path) -> int:
        """Read rows; returns where the last complete one ends."""
        file.seek(0)
        end = 0
        for number, line in enumerate(file, start=1):
            row = _decode(line)
            if row is None and line.endswith(b"\n") and file.read(1):
                raise UserError(
                    f"{path}, line {number} is damaged: fix or remove the line, or set {self._keys.overwrite}"
                )
            if row is None:
                break
            if row.get("settings") != self.settings_fingerprint and not self.keep_old:
                raise UserError(
                    f"{path} holds answers made under other settings{self._difference()}: set"
                    f" {self._keys.folder} to another folder, {self._keys.overwrite} to replace them, or"
                    f" {self._keys.keep_old} to mix them"
                )
            self.rows[row["fingerprint"]] = row
            self._num_lines += file is self._file
            end += len(line)
        return end

    def _difference(self) -> str:
        try:
            old = parse_json(self.path.with_suffix(SETTINGS_SUFFIX).read_text(encoding="utf-8"))
            names = sorted(old.keys() | self.settings.keys())
            changed = [name for name in names if old.get(name) != self.settings.get(name)]
        except (OSError, ValueError, AttributeError):
            return ""
        shown = [f"{name}: {_short(old.get(name))} there, {_short(self.settings.get(name))} now" for name in changed]
        return f" ({'; '.join(shown)})" if shown else ""


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", errors="replace") + b"\n"


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
