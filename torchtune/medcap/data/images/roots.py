"""Where images may be: the folders and tar files that a row's path must lead into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medcap.data.storage.tar_files import SEPARATOR, TarFiles, find_tars, is_tar_pattern
from medcap.errors import UserError, is_of_the_machine


@dataclass(frozen=True)
class LimitKeys:
    """What a command calls the limits of its :class:`ImageReader`, for messages; by default as in training.

    Attributes:
        roots: the key or option that names folders; None where there is none.
        pixels: the key or option of ``max_pixels``; None where there is none.
    """

    roots: str | None = "dataset.image_roots"
    pixels: str | None = "dataset.max_image_pixels"


TRAINING_KEYS = LimitKeys()


class ImageRoots:
    """The folders and tar files that images may be in.

    Args:
        roots: folders that images may be in, tar files, or names of many tar files as
            :func:`medcap.data.storage.tar_files.find_tars` expands them (``shards/train-{000000..000099}.tar``).
            Relative paths are tried against each in turn, folders first.
        cache: folder to keep the tables of tar files in.
        keys: what messages call the limits.

    Attributes:
        all: the folders and the tar files, links followed.

    Raises:
        UserError: if a root is neither a folder nor a tar file, or a tar file is damaged.
    """

    def __init__(
        self, roots: Iterable[str | Path | TarFiles], cache: Path | None = None, keys: LimitKeys = TRAINING_KEYS
    ) -> None:
        self.keys = keys
        where = f" in {keys.roots}" if keys.roots else ""
        folders: dict[Path, None] = {}
        tars: dict[Path, None] = {}
        self._tars: list[TarFiles] = []
        for root in roots:
            if isinstance(root, TarFiles):
                self._tars.append(root)
                continue
            resolved = Path(root).resolve()
            if resolved.is_dir():
                folders[resolved] = None
            elif is_tar_pattern(root):
                try:
                    tars.update((path, None) for path in find_tars(root))
                except UserError as error:
                    raise UserError(f"image root {root}: {error}{where}") from None
            else:
                raise UserError(f"image root {root} is not a folder{where and f': correct {keys.roots}'}")
        known = {path for files in self._tars for path in files.paths}
        new = [path for path in tars if path not in known]
        if new:
            self._tars.append(TarFiles(new, cache))
        self._tar_numbers = {
            str(path): (files, number) for files in reversed(self._tars) for number, path in enumerate(files.paths)
        }
        self._folders = list(folders)
        self.all = [*self._folders, *(path for files in self._tars for path in files.paths)]

    def resolve(self, path: str | Path, folder: str | Path | None = None) -> Path:
        """Find the file that a row names.

        Args:
            path: path as it is in the row.
            folder: medcap 2024's ``dir``: the folder of ``path``, relative to the working directory or to a root.

        Returns:
            The absolute path, links followed; ``file.tar!/name`` for a member of a tar file; a folder only where
            there is neither a file nor a member of this name.

        Raises:
            UserError: if it is outside the roots or does not exist.
        """
        named = Path(folder, path) if folder else Path(path)
        if "\0" in str(named):
            raise UserError(f"image path {str(named)!r} holds a NUL character")
        if self.member(named) is not None:
            return named
        bases = [Path.cwd(), *self._folders] if folder else self._folders
        outside = directory = None
        for base in bases:
            try:
                resolved = (base / named).resolve()
                if not resolved.is_file():
                    if directory is None and resolved.is_dir() and self.allow(resolved):
                        directory = resolved
                    continue
                if self.allow(resolved):
                    return resolved
                outside = resolved
            except (OSError, ValueError, RuntimeError) as error:
                if is_of_the_machine(error):
                    raise
                # Too long for a file system, half a character, links in a circle.
                raise UserError(f"image path {str(named)[:80]!r} cannot be looked up: {error}") from error
        if not named.is_absolute():
            for files in self._tars:
                member = files.find(str(named))
                if member is not None:
                    return files.path(member)
        if directory is not None:
            return directory
        allowed = ", ".join([*map(str, self._folders), *(files.label for files in self._tars)])
        allowed = allowed or "dataset.image_roots, which is empty"
        if outside is not None:
            remedy = f": add its folder to {self.keys.roots}" if self.keys.roots else ""
            raise UserError(f"image {named} lies outside the allowed folders{remedy} (allowed now: {allowed})")
        raise UserError(f"image {named} does not exist in {allowed}")

    def allow(self, resolved: Path) -> bool:
        """Return whether a path, links followed, is in one of the folders."""
        return any(resolved.is_relative_to(root) for root in self._folders)

    def member(self, path: Path) -> tuple[TarFiles, int] | None:
        """Return the member that a path of the form ``file.tar!/name`` means, if its tar file is among the roots."""
        text = str(path)
        position = text.find(SEPARATOR) if self._tars else -1
        while position >= 0:
            files, number = self._tar_numbers.get(text[:position], (None, 0))
            if files is not None:
                member = files.find(text[position + len(SEPARATOR) :], number)
                return None if member is None else (files, member)
            position = text.find(SEPARATOR, position + 1)
        return None
